"""What people type: `dsjob`, also as `kubectl dsjob`.  It acts with the rights of who calls it."""
