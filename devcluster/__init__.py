"""Kubernetes on one Linux machine without Docker: "kind without Docker".

The real etcd, API server, controller manager, scheduler, kubelets, kube-proxy, CoreDNS and
KubeRay, each node in its own network namespace with its own containerd. Meant for development
and tests; it knows nothing of the product that is developed with it. Start reading at cluster.py.
"""
