"""What looks into the user's program: patches on DeepSpeed, torch and Ray, and the way out."""
