"""Checkpoints of a run: the storage they lie on, the journal that counts them, their files."""
