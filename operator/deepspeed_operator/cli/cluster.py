"""The API server as its caller may use it: kubeconfig or the pod's account, as kubectl finds them.

Plain dicts in and out.  Waiting, watching and repeating are left out: a command asks once, and
who follows a job asks again.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

import urllib3
from kubernetes.client.api_client import ApiClient
from kubernetes.client.configuration import Configuration
from kubernetes.config import (
    ConfigException,
    list_kube_config_contexts,
    load_incluster_config,
    load_kube_config,
)

from deepspeed_operator.api import names
from deepspeed_operator.cli.ends import (
    Denied,
    NotThere,
    Overwhelmed,
    Refused,
    Unavailable,
    WrongUse,
)

Object = dict[str, Any]

FIELD_OWNER: Final = "dsjob"
TIMEOUT_S: Final = (5.0, 30.0)
"""To connect, and to read."""
POD_NAMESPACE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
APPLY: Final = "application/apply-patch+yaml"


@dataclass(frozen=True, slots=True)
class Where:
    """Which cluster, and as whom; None is what the kubeconfig says."""

    kubeconfig: str | None = None
    context: str | None = None
    namespace: str | None = None


class Cluster:
    """One API server, and the namespace that is meant when none is named.

    Every method raises Refused with the server's own words, or Unavailable.
    """

    def __init__(self, configuration: Configuration, namespace: str) -> None:
        configuration.retries = False
        self.configuration = configuration
        self.namespace = namespace
        self._client = ApiClient(configuration)
        self._client.user_agent = FIELD_OWNER
        self._served: dict[str, dict[str, Mapping[str, Any]]] = {}

    @classmethod
    def open(cls, where: Where) -> Self:
        """Find the cluster as kubectl does; no request is sent.

        Raises:
            Unavailable: there is no kubeconfig and this is no pod.
            WrongUse: the kubeconfig has no such context.
        """
        configuration = Configuration()
        try:
            _, context = list_kube_config_contexts(where.kubeconfig)
        except (ConfigException, OSError) as error:
            return cls(configuration, _load_pod_account(configuration, where, str(error)))
        try:
            load_kube_config(
                where.kubeconfig, where.context, configuration, persist_config=where.context is None
            )
        except ConfigException as error:
            raise WrongUse(f"kubeconfig: {error}") from error
        if where.context is not None:
            contexts, _ = list_kube_config_contexts(where.kubeconfig)
            context = next(found for found in contexts if found["name"] == where.context)
        return cls(configuration, where.namespace or context["context"].get("namespace", "default"))

    def jobs_path(self, namespace: str | None = None, name: str = "") -> str:
        """Return the path of a job, of a namespace's jobs, or of all jobs for namespace ''."""
        home = self.namespace if namespace is None else namespace
        within = f"/namespaces/{quote(home, safe='')}" if home else ""
        path = f"/apis/{names.API_VERSION}{within}/{names.PLURAL}"
        return f"{path}/{quote(name, safe='')}" if name else path

    def job(self, name: str) -> Object:
        """Read a job."""
        try:
            return self.get(self.jobs_path(name=name))
        except NotThere as error:
            raise self._explain(error, name) from error

    def jobs(self, namespace: str | None = None) -> list[Object]:
        """Read all jobs of a namespace; of all namespaces for ''."""
        try:
            return list(self.get(self.jobs_path(namespace))["items"])
        except NotThere as error:
            raise self._explain(error, "") from error

    def pods(self, job: str) -> list[Object]:
        """Read the pods of a job."""
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        return list(self.get(path, {"labelSelector": f"{names.JOB_LABEL}={job}"})["items"])

    def events(self) -> list[Object]:
        """Read the namespace's events."""
        return list(self.get(f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events")["items"])

    def apply(self, body: Mapping[str, Any], *, force: bool = False) -> tuple[Object, bool]:
        """Write an object by server-side apply; returns it, and whether it is new.

        Fields that its kind does not have are refused.
        """
        path = self._path_of(body)
        query = {"fieldManager": FIELD_OWNER, "fieldValidation": "Strict"}
        if force:
            query["force"] = "true"
        try:
            status, found = self._ask("PATCH", f"{path}/{_name_of(body)}", query, body, APPLY)
        except Overwhelmed:
            # An apply with an unknown field is answered with 500; a create says what is wrong.
            trial = {"fieldValidation": "Strict", "dryRun": "All"}
            self._ask("POST", path, trial, body)
            raise
        return found, status == 201

    def delete_job(self, job: Mapping[str, Any]) -> None:
        """Delete this very job."""
        meta = job["metadata"]
        path = self.jobs_path(meta["namespace"], meta["name"])
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": meta["uid"]},
            "propagationPolicy": "Background",
        }
        self._ask("DELETE", path, {}, options)

    def execute(self, pod: str, container: str, command: list[str]) -> str:
        """Run a command in a pod of this namespace and return what it printed."""
        from kubernetes.client import CoreV1Api  # noqa: PLC0415  all types of Kubernetes
        from kubernetes.client.exceptions import ApiException  # noqa: PLC0415
        from kubernetes.stream import stream  # noqa: PLC0415

        api = CoreV1Api(ApiClient(self.configuration))
        streams = {"stdin": False, "stdout": True, "stderr": True, "tty": False}
        try:
            line = stream(
                api.connect_get_namespaced_pod_exec,
                pod,
                self.namespace,
                container=container,
                command=command,
                _preload_content=False,
                **streams,
            )
            line.run_forever(timeout=TIMEOUT_S[1])
            said, complaint = line.read_stdout(timeout=0), line.read_stderr(timeout=0)
            code = line.returncode
        except ApiException as error:
            raise _derive_exec_error(pod, error) from error
        if code != 0:
            raise Unavailable(f"pod {pod} cannot be read: {(complaint or said).strip()[-300:]}")
        return str(said)

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Object:
        """Read what lies at a path."""
        return self._ask("GET", path, query or {})[1]

    def _path_of(self, body: Mapping[str, Any]) -> str:
        """Return the path of an object's kind in its namespace, after asking the server for it."""
        version, kind, meta = body["apiVersion"], body["kind"], body["metadata"]
        group = f"/apis/{version}" if "/" in version else f"/api/{version}"
        if version not in self._served:
            try:
                found = self.get(group)["resources"]
            except NotThere:
                found = []
            self._served[version] = {
                each["kind"]: each for each in found if "/" not in each["name"]
            }
        resource = self._served[version].get(kind)
        if resource is None:
            fix = "; install the operator's chart first" if kind == names.KIND else ""
            raise NotThere(f"the cluster has no kind {kind} in {version}{fix}", status=404)
        if not resource["namespaced"]:
            return f"{group}/{resource['name']}"
        home = quote(meta.get("namespace", self.namespace), safe="")
        return f"{group}/namespaces/{home}/{resource['name']}"

    def _explain(self, error: NotThere, name: str) -> NotThere:
        """Tell a missing job from a missing operator."""
        if "could not find the requested resource" in str(error) or not name:
            return NotThere(
                "the cluster has no DeepSpeedJobs: install the operator's chart first", status=404
            )
        return NotThere(
            f"there is no DeepSpeedJob {name!r} in namespace {self.namespace}: see `dsjob list -A`",
            status=404,
        )

    def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> tuple[int, Object]:
        """Send one request.  The only place where errors of the network become ours."""
        try:
            _, url, headers, content, _ = self._client.param_serialize(
                method,
                path,
                query_params=dict(query),
                header_params={"Accept": "application/json", "Content-Type": content_type},
                body=dict(body) if body is not None else None,
                auth_settings=["BearerToken"],
            )
            response = self._client.call_api(
                method, url, headers, content, _request_timeout=TIMEOUT_S
            )
            text = response.read()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            host = self.configuration.host
            raise Unavailable(
                f"the API server at {host} cannot be reached: {_first_line(error)}"
            ) from error
        try:
            found = json.loads(text)
        except ValueError:
            found = {"message": text.decode(errors="replace")[:1000]}
        if not 200 <= response.status < 300:
            raise _derive_error(response.status, found)
        return response.status, found


def _load_pod_account(configuration: Configuration, where: Where, otherwise: str) -> str:
    """Load the account of the pod that this runs in; returns the namespace."""
    if where.kubeconfig is not None or where.context is not None:
        raise WrongUse(f"kubeconfig: {otherwise}")
    try:
        load_incluster_config(client_configuration=configuration)
    except ConfigException as error:
        raise Unavailable(
            f"no cluster is named: {otherwise.rstrip('.')}, and this is no pod; set KUBECONFIG or"
            " give --kubeconfig"
        ) from error
    return where.namespace or POD_NAMESPACE.read_text().strip()


def _derive_exec_error(pod: str, error: Exception) -> Refused | Unavailable:
    """Return the server's own answer to the handshake, which the client puts into a text."""
    cause = error.__context__
    status = getattr(cause, "status_code", None)
    if status is None:
        return Unavailable(f"pod {pod} cannot be read: {_first_line(error)}")
    try:
        found = json.loads(getattr(cause, "resp_body", None) or b"{}")
    except ValueError:
        found = {}
    return _derive_error(status, found)


def _name_of(body: Mapping[str, Any]) -> str:
    return quote(body["metadata"]["name"], safe="")


def _derive_error(status: int, found: Mapping[str, Any]) -> Refused | Unavailable:
    message = str(found.get("message") or f"status {status} without a word")
    if status in (401, 403):
        return Denied(f"the API server denies this: {message}")
    if status == 429 or status >= 500:
        return Overwhelmed(f"the API server cannot answer now ({status}): {message}")
    listed = (found.get("details") or {}).get("causes") or []
    causes = [(each.get("field", ""), each.get("message", "")) for each in listed]
    kind = NotThere if status == 404 else Refused
    return kind(message, status=status, causes=causes)


def _first_line(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or error
    return (str(reason).strip().splitlines() or [type(error).__name__])[0]
