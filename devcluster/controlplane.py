"""The programs that run once per cluster, on the host: how each is called and when it is ready.

Everything listens on loopback, except the API server and CoreDNS of a cluster with nodes: those
listen on the cluster's bridge, so that nodes and pods reach them and other machines do not.
"""

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from devcluster import manifests, processes
from devcluster.api import ApiClient
from devcluster.detection import DETECTIONS, Detection
from devcluster.errors import Refused
from devcluster.paths import remove
from devcluster.processes import Home
from devcluster.slots import Place
from devcluster.steps import Shell

READY_S = 180.0
KUBERAY_API = "ray.io/v1"
Command = list[str | Path]


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """One cluster's control plane; `binaries` is the folder with the programs."""

    home: Home
    place: Place
    binaries: Path
    has_nodes: bool
    detection: Detection = DETECTIONS["fast"]

    @property
    def pki(self) -> Path:
        """The folder with certificates and kubeconfigs."""
        return self.home.folder / "pki"

    @property
    def address(self) -> str:
        """Where the API server listens."""
        return self.place.gateway if self.has_nodes else "127.0.0.1"

    @property
    def server(self) -> str:
        """The URL of the API server."""
        return f"https://{self.address}:{self.place.port('kube-apiserver')}"

    @property
    def audit_log(self) -> Path:
        """The file with a line for every request that the policy records."""
        return self.home.folder / "audit.log"

    @property
    def volumes(self) -> Path:
        """The folder that holds the folders of all volumes."""
        return self.home.folder / "volumes"

    def api(self) -> ApiClient:
        """A client with the rights of the administrator."""
        return ApiClient(self.pki / "admin.kubeconfig")

    def start(self, component: str, command: Command) -> None:
        """Start one of the programs."""
        processes.start(self.home, component, [self.binaries / component, *command])

    def start_api(self, shell: Shell) -> None:
        """Start etcd and the API server; ready when the API server says so itself."""
        policy = self.home.folder / "audit-policy.json"
        policy.write_text(json.dumps(manifests.audit_policy()))
        self.start("etcd", self.etcd_command())
        self.start("kube-apiserver", self.api_server_command(policy))
        api = self.api()
        processes.await_ready(
            self.home, ["etcd", "kube-apiserver"], lambda: api.says_ok("/readyz"),
            shell=shell, timeout_s=READY_S,
        )  # fmt: skip

    def start_controllers(self, shell: Shell) -> None:
        """Start the controller manager and the scheduler."""
        for component, command in (
            ("kube-controller-manager", self.controller_manager_command()),
            ("kube-scheduler", self.scheduler_command()),
        ):
            self.start(component, command)
        for component in ("kube-controller-manager", "kube-scheduler"):
            probe = self.https_probe(self.place.port(component))
            processes.await_ready(self.home, [component], probe, shell=shell, timeout_s=READY_S)

    def start_dns(self, shell: Shell) -> None:
        """Start CoreDNS; ready when it has read the Services."""
        corefile = self.home.folder / "Corefile"
        corefile.write_text(self.corefile())
        self.start("coredns", ["-conf", corefile])
        probe = http_probe(f"http://127.0.0.1:{self.place.port('coredns')}/ready")
        processes.await_ready(self.home, ["coredns"], probe, shell=shell, timeout_s=READY_S)

    def install_kuberay(self, shell: Shell, crds: Path) -> None:
        """Install KubeRay's custom resources and wait until they are served."""
        api = self.api()
        definitions = [json.loads(file.read_text()) for file in sorted(crds.glob("*.json"))]
        with ThreadPoolExecutor() as pool:
            list(pool.map(partial(api.create, check=shell.check), definitions))
        wanted = {definition["spec"]["names"]["plural"] for definition in definitions}
        processes.await_ready(
            self.home, ["kube-apiserver"], lambda: wanted <= served(api, KUBERAY_API),
            shell=shell, timeout_s=READY_S,
        )  # fmt: skip

    def start_kuberay(self, shell: Shell, program: Path, concurrency: int) -> None:
        """Start KubeRay's operator; its resources are installed already."""
        processes.start(self.home, "kuberay", [program, *self.kuberay_command(concurrency)])
        probe = http_probe(f"http://127.0.0.1:{self.place.port('kuberay')}/readyz")
        processes.await_ready(self.home, ["kuberay"], probe, shell=shell, timeout_s=READY_S)

    def create_basics(self, shell: Shell) -> None:
        """Create the rights and the storage that every cluster has."""
        api = self.api()
        for manifest in manifests.access():
            api.create(manifest, check=shell.check)
        for name in manifests.volume_names():
            make_volume_folder(self.volumes / name)
        for manifest in manifests.storage(self.volumes):
            api.create(manifest, check=shell.check)

    def recycle_volumes(self) -> int:
        """Empty volumes whose claim is gone and offer them again; returns how many."""
        api = self.api()
        released = [
            item["metadata"]["name"]
            for item in api.get("/api/v1/persistentvolumes")["items"]
            if item.get("status", {}).get("phase") == "Released"
            and item["spec"].get("storageClassName") == manifests.STORAGE_CLASS
        ]
        for name in released:
            remove(self.volumes / name)
            make_volume_folder(self.volumes / name)
            api.merge(f"/api/v1/persistentvolumes/{name}", {"spec": {"claimRef": None}})
        return len(released)

    def https_probe(self, port: int) -> Callable[[], bool]:
        """Whether a component with our loopback certificate says it is healthy."""
        client = self.client_of(port)
        return lambda: client.says_ok("/healthz")

    def client_of(self, port: int) -> ApiClient:
        """A client of a component that listens here with our loopback certificate."""
        return ApiClient(self.pki / "admin.kubeconfig", f"https://127.0.0.1:{port}")

    def etcd_command(self) -> Command:
        """How etcd is called."""
        client = f"https://127.0.0.1:{self.place.port('etcd')}"
        peer = f"https://127.0.0.1:{self.place.port('etcd-peer')}"
        cert, key, ca = self.pki / "etcd.crt", self.pki / "etcd.key", self.pki / "ca.crt"
        return [
            f"--data-dir={self.home.folder / 'etcd'}",
            f"--listen-client-urls={client}", f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            f"--cert-file={cert}", f"--key-file={key}", f"--trusted-ca-file={ca}",
            "--client-cert-auth",
            f"--peer-cert-file={cert}", f"--peer-key-file={key}", f"--peer-trusted-ca-file={ca}",
            "--peer-client-cert-auth",
            # A cluster lives until `down`; nothing in it has to survive a power cut.
            "--unsafe-no-fsync",
            "--quota-backend-bytes=8589934592", "--log-level=warn",
        ]  # fmt: skip

    def api_server_command(self, audit_policy: Path) -> Command:
        """How the API server is called."""
        pki = self.pki
        return [
            f"--bind-address={self.address}", f"--advertise-address={self.address}",
            f"--secure-port={self.place.port('kube-apiserver')}",
            f"--tls-cert-file={pki / 'kube-apiserver.crt'}",
            f"--tls-private-key-file={pki / 'kube-apiserver.key'}",
            f"--client-ca-file={pki / 'ca.crt'}",
            # No one has a certificate of this name: there is no proxy before the API server.
            f"--requestheader-client-ca-file={pki / 'ca.crt'}",
            "--requestheader-allowed-names=front-proxy",
            "--requestheader-username-headers=X-Remote-User",
            f"--etcd-servers=https://127.0.0.1:{self.place.port('etcd')}",
            f"--etcd-cafile={pki / 'ca.crt'}",
            f"--etcd-certfile={pki / 'kube-apiserver.crt'}",
            f"--etcd-keyfile={pki / 'kube-apiserver.key'}",
            f"--kubelet-certificate-authority={pki / 'ca.crt'}",
            f"--kubelet-client-certificate={pki / 'kubelet-client.crt'}",
            f"--kubelet-client-key={pki / 'kubelet-client.key'}",
            "--kubelet-preferred-address-types=InternalIP",
            "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={pki / 'service-accounts.key'}",
            f"--service-account-signing-key-file={pki / 'service-accounts.key'}",
            f"--service-cluster-ip-range={self.place.service_network}",
            # Loopback is no legal endpoint, so without nodes none is published.
            f"--endpoint-reconciler-type={'lease' if self.has_nodes else 'none'}",
            f"--audit-policy-file={audit_policy}", f"--audit-log-path={self.audit_log}",
            # The log is read as a whole, so it must not be rotated away.
            "--audit-log-maxsize=4096", "--audit-log-mode=blocking",
            "--allow-privileged=true",
        ]  # fmt: skip

    def controller_manager_command(self) -> Command:
        """How the controller manager is called."""
        return [
            *self._controller_flags("kube-controller-manager"),
            f"--service-account-private-key-file={self.pki / 'service-accounts.key'}",
            f"--root-ca-file={self.pki / 'ca.crt'}",
            "--use-service-account-credentials=true",
            f"--cluster-cidr={self.place.pod_network}", "--allocate-node-cidrs=false",
            f"--node-monitor-grace-period={self.detection.grace_period}",
        ]  # fmt: skip

    def scheduler_command(self) -> Command:
        """How the scheduler is called."""
        return self._controller_flags("kube-scheduler")

    def _controller_flags(self, component: str) -> Command:
        config = self.pki / f"{component}.kubeconfig"
        return [
            f"--kubeconfig={config}",
            f"--authentication-kubeconfig={config}", f"--authorization-kubeconfig={config}",
            "--authentication-tolerate-lookup-failure=true",
            f"--client-ca-file={self.pki / 'ca.crt'}",
            "--bind-address=127.0.0.1", f"--secure-port={self.place.port(component)}",
            f"--tls-cert-file={self.pki / 'loopback.crt'}",
            f"--tls-private-key-file={self.pki / 'loopback.key'}",
            "--leader-elect=false", "--kube-api-qps=500", "--kube-api-burst=1000",
            "--profiling=false",
        ]  # fmt: skip

    def kuberay_command(self, concurrency: int) -> Command:
        """How the operator of KubeRay is called."""
        return [
            "--kubeconfig", self.pki / "kuberay.kubeconfig",
            "--enable-leader-election=false", "--metrics-addr=0",
            f"--health-probe-bind-address=127.0.0.1:{self.place.port('kuberay')}",
            f"--reconcile-concurrency={concurrency}", "--qps=500", "--burst=1000",
            # On the host it cannot resolve the cluster's names: it calls heads by the API server.
            "--use-kubernetes-proxy",
        ]  # fmt: skip

    def corefile(self) -> str:
        """The configuration of CoreDNS: the names of the cluster and no others."""
        return f"""\
.:53 {{
    bind {self.place.gateway}
    errors
    ready 127.0.0.1:{self.place.port("coredns")}
    cache 5
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {self.pki / "coredns.kubeconfig"} devcluster
        pods insecure
    }}
}}
"""


def make_volume_folder(folder: Path) -> None:
    """A folder that any user may write to, as shared file systems for training are set up."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o777)


def served(api: ApiClient, version: str) -> set[str]:
    """The resources of an API version that the server serves now.

    Asked of discovery: reading the definitions themselves, a megabyte each, keeps the server busy.
    """
    try:
        found = api.get(f"/apis/{version}")["resources"]
    except Refused:  # the version is not known yet
        return set()
    return {resource["name"] for resource in found}


def http_probe(url: str) -> Callable[[], bool]:
    """Whether this address answers with success."""

    def probe() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=2):  # noqa: S310 (our own loopback address)
                return True
        except (urllib.error.URLError, OSError):
            return False

    return probe
