"""Kueue, run on the host as KubeRay is, with its webhooks answered on loopback.

The API server calls the webhooks by address and trusts them by the cluster's own authority, so
neither a Service nor a certificate controller is needed. Left out: webhooks of kinds that no
controller here handles (a webhook that nobody answers is in everybody's way), the visibility API,
and the roles for users, who are administrators here.
"""

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from devcluster import build, manifests, processes, versions
from devcluster.build import CORES, Edit, GoProgram
from devcluster.controlplane import READY_S, Command, ControlPlane, http_probe, served
from devcluster.steps import Shell, Step

COMPONENT = "kueue"
NAMESPACE = "kueue-system"
API = "kueue.x-k8s.io/v1beta2"
KUEUE = GoProgram(
    "kueue", "sigs.k8s.io/kueue/cmd/kueue",
    f"-s -w -X sigs.k8s.io/kueue/pkg/version.GitVersion={versions.KUEUE}",
    # It reads the certificate of its metrics from a fixed path, also when it serves no metrics.
    (Edit('"/etc/kueue/metrics/certs"', "cfg.Webhook.CertDir"),),
)  # fmt: skip
FRAMEWORKS = ("batch/job", "ray.io/raycluster", "ray.io/rayjob")
# The versions of its other kinds differ in name alone, and it refuses to convert those.
CONVERTED = {"clusterqueues", "cohorts", "localqueues", "multikueueclusters", "workloads"}
HOOKED = {("ray.io", "rayclusters"), ("ray.io", "rayjobs"), ("batch", "jobs")}


def build_step() -> Step:
    """The step that builds Kueue."""
    return Step("kueue program", build_kueue, ("go toolchain",), KUEUE.folder.exists, lane=CORES)


def build_kueue(shell: Shell) -> None:
    """Build Kueue, and put its resources and webhooks beside it."""
    build.build_program(shell, KUEUE, gather_manifests)


def gather_manifests(module: Path, folder: Path) -> None:
    """Write as JSON what the cluster is told of Kueue."""
    components = module / "config" / "components"
    build.gather_crds(components / "crd" / "bases", folder)
    text = (components / "webhook" / "manifests.yaml").read_text()
    hooks = list(yaml.load_all(text, yaml.CSafeLoader))
    (folder / "webhooks.json").write_text(json.dumps(hooks))


def client_config(plane: ControlPlane, path: str) -> dict[str, str]:
    """How the API server reaches Kueue, and by whose word it trusts it."""
    authority = base64.b64encode((plane.pki / "ca.crt").read_bytes()).decode()
    port = plane.place.port("kueue-webhook")
    return {"url": f"https://127.0.0.1:{port}{path}", "caBundle": authority}


def definitions(plane: ControlPlane) -> Iterator[dict[str, Any]]:
    """Kueue's custom resources; some are converted between versions by Kueue itself."""
    for file in sorted((KUEUE.folder / "crds").glob("*.json")):
        definition = json.loads(file.read_text())
        if definition["spec"]["names"]["plural"] in CONVERTED:
            hook = {"conversionReviewVersions": ["v1"]}
            config = {"clientConfig": client_config(plane, "/convert")}
            definition["spec"]["conversion"] = {"strategy": "Webhook", "webhook": hook | config}
        yield definition


def webhooks(plane: ControlPlane) -> Iterator[dict[str, Any]]:
    """Kueue's webhooks for the kinds that its controllers handle here."""
    for configuration in json.loads((KUEUE.folder / "webhooks.json").read_text()):
        configuration["metadata"] = {"name": f"kueue-{configuration['metadata']['name']}"}
        configuration["webhooks"] = [hook for hook in configuration["webhooks"] if is_handled(hook)]
        for hook in configuration["webhooks"]:
            hook["clientConfig"] = client_config(plane, hook["clientConfig"]["service"]["path"])
        yield configuration


def is_handled(hook: dict[str, Any]) -> bool:
    """Whether the webhook is about a kind that Kueue handles here."""
    group, resource = hook["rules"][0]["apiGroups"][0], hook["rules"][0]["resources"][0]
    return group == API.partition("/")[0] or (group, resource) in HOOKED


def configuration(plane: ControlPlane, certificates: Path) -> dict[str, Any]:
    """How Kueue is set."""
    return {
        "apiVersion": "config.kueue.x-k8s.io/v1beta2",
        "kind": "Configuration",
        "namespace": NAMESPACE,
        "health": {"healthProbeBindAddress": f"127.0.0.1:{plane.place.port('kueue')}"},
        "metrics": {"bindAddress": "0"},
        "webhook": {
            "host": "127.0.0.1",
            "port": plane.place.port("kueue-webhook"),
            "certDir": str(certificates),
        },
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": False},
        "clientConnection": {"qps": 500, "burst": 1000},
        "integrations": {"frameworks": list(FRAMEWORKS)},
        "featureGates": {"VisibilityOnDemand": False},
    }


def install(shell: Shell, plane: ControlPlane) -> None:
    """Create Kueue's rights and resources and wait until these are served."""
    api = plane.api()
    api.create(manifests.full_rights("devcluster:kueue"), check=shell.check)
    api.create(manifests.namespace(NAMESPACE), check=shell.check)
    found = list(definitions(plane))
    with ThreadPoolExecutor() as pool:
        list(pool.map(partial(api.create, check=shell.check), found))
    wanted = {
        each["spec"]["names"]["plural"]
        for each in found
        if API.partition("/")[2] in {version["name"] for version in each["spec"]["versions"]}
    }
    processes.await_ready(
        plane.home, ["kube-apiserver"], lambda: wanted <= served(api, API),
        shell=shell, timeout_s=READY_S,
    )  # fmt: skip


def start(shell: Shell, plane: ControlPlane) -> None:
    """Start Kueue; ready when its controllers and webhooks are."""
    certificates = plane.home.folder / "kueue"
    certificates.mkdir()
    for kind in ("crt", "key"):
        (certificates / f"tls.{kind}").symlink_to(plane.pki / f"loopback.{kind}")
    config = plane.home.folder / "kueue.json"
    config.write_text(json.dumps(configuration(plane, certificates), indent=1))
    command: Command = [KUEUE.folder / "kueue", "--config", config]
    command += ["--kubeconfig", plane.pki / "kueue.kubeconfig"]
    processes.start(plane.home, COMPONENT, command)
    probe = http_probe(f"http://127.0.0.1:{plane.place.port('kueue')}/readyz")
    processes.await_ready(plane.home, [COMPONENT], probe, shell=shell, timeout_s=READY_S)


def install_webhooks(shell: Shell, plane: ControlPlane) -> None:
    """Tell the API server whom to ask."""
    api = plane.api()
    for each in webhooks(plane):
        api.create(each, check=shell.check)
