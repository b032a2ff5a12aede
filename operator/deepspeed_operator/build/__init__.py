"""Pure builders: from a job and an attempt to the Kubernetes objects and the contract of a run."""
