"""The operator as its chart installs it, in its pod or, where there are no kubelets, on the host.

On the host it runs with its own ServiceAccount's token and the environment that the chart wrote
into the Deployment, so that rights and settings are those of the pod.
"""

import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from devcluster.cluster import Cluster
from tests.support.eventually import eventually
from tests.support.kube import Kube, kube_of
from tools.install import NAMESPACE, RELEASE

ROOT = Path(__file__).resolve().parent.parent.parent
USER = f"system:serviceaccount:{NAMESPACE}:{RELEASE}"
STOP_S = 20


@dataclass
class HostOperator:
    """The operator as a process of this machine. It can be killed and started again."""

    cluster: Cluster
    folder: Path
    extra_environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    health_port: int = 0

    @property
    def log(self) -> Path:
        return self.folder / "operator.log"

    def start(self) -> None:
        """Start it; returns at once."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.health_port = free.getsockname()[1]
        environment = {
            **os.environ,
            **chart_environment(kube_of(self.cluster)),
            "KUBECONFIG": str(self._kubeconfig()),
            "DSJOB_HEALTH_PORT": str(self.health_port),
            "PYTHONPATH": f"{ROOT / 'operator'}{os.pathsep}{ROOT / 'trainer_image'}",
            **self.extra_environment,
        }
        with self.log.open("ab") as output:
            command = [sys.executable, "-m", "deepspeed_operator"]
            self.process = subprocess.Popen(
                command, env=environment, cwd=self.folder, stdout=output, stderr=output
            )

    def await_ready(self) -> None:
        """Wait until it says that it is ready."""
        eventually(self._says_ready, f"the operator is ready; its log: {self.log}")

    def kill(self) -> None:
        """End it without a chance to say good-bye."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it as a kubelet would."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def _says_ready(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError(f"the operator ended:\n{self.log.read_text()[-4000:]}")
        try:
            url = f"http://127.0.0.1:{self.health_port}/readyz"
            with urllib.request.urlopen(url, timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def _kubeconfig(self) -> Path:
        """A kubeconfig with the rights of the chart's ServiceAccount and no others."""
        token = kube_of(self.cluster).run("create", "token", RELEASE, "-n", NAMESPACE).strip()
        config = json.loads(self.cluster.kubeconfig.read_text())
        config["users"][0]["user"] = {"token": token}
        path = self.folder / "operator.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(json.dumps(config))
        return path


def chart_environment(kube: Kube) -> dict[str, str]:
    """The environment that the chart gives to the operator's container."""
    container = kube.get("deployment", RELEASE, NAMESPACE)["spec"]["template"]["spec"][
        "containers"
    ][0]
    plain = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
    return {**plain, "DSJOB_NAMESPACE": NAMESPACE}


@contextmanager
def operator_on_host(
    cluster: Cluster, folder: Path, **extra_environment: str
) -> Iterator[HostOperator]:
    """The operator, ready, on the host; stopped at the end."""
    operator = HostOperator(cluster, folder, extra_environment)
    operator.start()
    try:
        operator.await_ready()
        yield operator
    finally:
        operator.stop()
