"""A refused exec, as the API server words it: the client library hides it in a failed handshake."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from kubernetes.client.configuration import Configuration

from deepspeed_operator.cli.cluster import Cluster
from deepspeed_operator.cli.ends import CliError, Denied, NotThere, Unavailable

MESSAGE = 'pods "bert-head" is forbidden: User "me" cannot get resource "pods/exec"'


class Refusing(BaseHTTPRequestHandler):
    """Answers every request with the server's status."""

    def do_GET(self) -> None:
        status = self.server.status  # type: ignore[attr-defined]
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        body = json.dumps({"kind": "Status", "message": MESSAGE, "code": status}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""


@pytest.fixture
def api() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), Refusing)
    server.asked = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def cluster_of(port: int) -> Cluster:
    configuration = Configuration()
    configuration.host = f"http://127.0.0.1:{port}"
    return Cluster(configuration, "team")


@pytest.mark.parametrize(("status", "kind"), [(403, Denied), (404, NotThere), (500, Unavailable)])
def test_a_refused_exec_ends_in_the_servers_own_words(
    api: HTTPServer, status: int, kind: type[CliError]
) -> None:
    api.status = status  # type: ignore[attr-defined]
    with pytest.raises(kind, match="pods/exec"):
        cluster_of(api.server_port).execute("bert-head", "ray-head", ["python", "-c", "1"])
    [path] = api.asked  # type: ignore[attr-defined]
    assert path.startswith("/api/v1/namespaces/team/pods/bert-head/exec?")
    assert "command=python" in path


def test_an_exec_without_a_server_says_so(api: HTTPServer) -> None:
    api.server_close()
    with pytest.raises(Unavailable, match="bert-head cannot be read"):
        cluster_of(api.server_port).execute("bert-head", "ray-head", ["true"])
