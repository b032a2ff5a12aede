"""What the head knows of all ranks, decides for them, and tells the operator."""
