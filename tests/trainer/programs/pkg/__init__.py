"""A package whose module is an entrypoint."""
