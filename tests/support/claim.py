"""Files on a claim, read and written by a pod that mounts it: no cluster's volumes need be at hand.

claim = Claim(kube, namespace, "quickstart", image)
claim.write("src/train.sh", "…")
"""

from dataclasses import dataclass
from functools import cached_property

from tests.support.kube import Kube

POD, MOUNT = "files", "/claim"
USER = 1000
_READ = 'test ! -e "$1" || { echo there; cat "$1"; }'
_WRITE = 'mkdir -p "$(dirname "$1")" && cat > "$1" && chmod 755 "$1"'


@dataclass(frozen=True)
class Claim:
    """A claim, and an image with a shell that its cluster has."""

    kube: Kube
    namespace: str
    name: str
    image: str

    def read(self, path: str) -> str | None:
        """The content of a file; None when there is no such file."""
        mark, found, text = self._shell(_READ, path).partition("there\n")
        assert not mark, mark
        return text if found else None

    def write(self, path: str, text: str) -> None:
        """Write a file that may be executed, and the folders above it."""
        self._shell(_WRITE, path, stdin=text)

    def _shell(self, program: str, path: str, stdin: str = "") -> str:
        where = ("exec", "-i", "-n", self.namespace, self._pod, "--")
        return self.kube.run(*where, "sh", "-c", program, "sh", f"{MOUNT}/{path}", stdin=stdin)

    @cached_property
    def _pod(self) -> str:
        """The pod, running; it goes with its namespace."""
        self.kube.apply(self._manifest())
        where = ("-n", self.namespace)
        self.kube.run("wait", *where, f"pod/{POD}", "--for=condition=Ready", "--timeout=120s")
        return POD

    def _manifest(self) -> dict[str, object]:
        who = {"runAsNonRoot": True, "runAsUser": USER, "fsGroup": USER}
        may = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        container = {
            "name": "shell",
            "image": self.image,
            "command": ["sleep", "infinity"],
            "securityContext": may,
            "volumeMounts": [{"name": "claim", "mountPath": MOUNT}],
        }
        volume = {"name": "claim", "persistentVolumeClaim": {"claimName": self.name}}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": POD, "namespace": self.namespace},
            "spec": {
                "securityContext": {**who, "seccompProfile": {"type": "RuntimeDefault"}},
                "terminationGracePeriodSeconds": 0,
                "containers": [container],
                "volumes": [volume],
            },
        }
