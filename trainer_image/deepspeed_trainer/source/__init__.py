"""Brings a run's code into a pod before Ray starts there: from git, an archive or a ConfigMap."""
