"""The eyes: trimmed caches of what the API server and the heads say, and the inbox of keys."""
