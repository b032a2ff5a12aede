"""What our client does when the API server is too busy to answer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from devcluster import api
from devcluster.api import ApiClient
from devcluster.errors import Interrupted, Refused
from devcluster.pki import make_cluster_pki
from devcluster.slots import Place

NAMESPACE = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}
OK = ""


class Scripted(ApiClient):
    """Answers as told, one request after another."""

    def __init__(self, kubeconfig: Path, *answers: str | Exception) -> None:
        super().__init__(kubeconfig)
        self.answers = list(answers)
        self.asked: list[tuple[str, str, Any, str]] = []

    def request(self, method: str, path: str, body: Any = None, content: str = "") -> str:
        self.asked.append((method, path, body, content))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def scripted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str | Exception], Scripted]:
    monkeypatch.setattr(api, "PAUSE_S", 0)
    make_cluster_pki(tmp_path, Place(3), "https://127.0.0.1:1", [])
    return lambda *answers: Scripted(tmp_path / "admin.kubeconfig", *answers)


def no(status: int) -> Refused:
    return Refused(status, f"said {status}")


def go_on() -> None:
    return


@pytest.mark.parametrize(
    "trouble", [no(504), no(500), no(429), TimeoutError(), ConnectionResetError()], ids=repr
)
def test_a_server_that_is_too_busy_is_asked_again(scripted, trouble: Exception) -> None:
    client = scripted(trouble, trouble, OK)
    client.create(NAMESPACE, check=go_on)
    assert client.asked == [("POST", "/api/v1/namespaces", NAMESPACE, "application/json")] * 3


def test_an_object_that_the_unanswered_request_had_created_is_created(scripted) -> None:
    client = scripted(no(504), no(409))
    client.create(NAMESPACE, check=go_on)
    assert client.answers == []


@pytest.mark.parametrize("trouble", [no(409), no(403), no(422), ConnectionRefusedError()], ids=repr)
def test_a_plain_no_is_passed_on_at_once(scripted, trouble: Exception) -> None:
    client = scripted(trouble, OK)
    with pytest.raises(type(trouble)):
        client.create(NAMESPACE, check=go_on)
    assert client.answers == [OK]


def test_a_server_that_stays_busy_is_told_when_time_is_up(scripted) -> None:
    client = scripted(no(504), OK)
    with pytest.raises(Refused, match="504"):
        client.create(NAMESPACE, check=go_on, within_s=-1)


def test_a_step_that_is_told_to_stop_does_not_ask_again(scripted) -> None:
    def stop() -> None:
        raise Interrupted("stop")

    client = scripted(no(504))
    with pytest.raises(Interrupted):
        client.create(NAMESPACE, check=stop)
    assert len(client.answers) == 1
