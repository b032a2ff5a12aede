"""The Ray job on the head: storage, resume, TorchTrainer or the user's own program, the end."""
