"""A job on this machine: the same manifest, checks, contract and driver, and no Kubernetes."""
