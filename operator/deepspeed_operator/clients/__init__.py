"""The only rooms with sockets: the Kubernetes API and the Ray heads."""
