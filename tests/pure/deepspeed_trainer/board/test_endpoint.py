"""The endpoint answers one question, to those who know the token, whatever else is sent."""

import http.client
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from deepspeed_trainer.board.endpoint import MAX_CALLERS, ProgressServer

TOKEN = "a-token"


@pytest.fixture
def server() -> Iterator[ProgressServer]:
    answers = {"known": '{"step": 1}'}
    running = ProgressServer(0, TOKEN, answers.get)
    running.start()
    yield running
    running.shutdown()
    running.server_close()


def ask(
    server: ProgressServer, path: str, token: str | None = TOKEN, method: str = "GET"
) -> tuple[int, bytes]:
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    with closing(http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)) as line:
        line.request(method, path, headers=headers)
        answer = line.getresponse()
        return answer.status, answer.read()


def test_a_known_run_is_answered(server: ProgressServer) -> None:
    assert ask(server, "/v1/progress/known") == (200, b'{"step": 1}')


@pytest.mark.parametrize("token", [None, "", "wrong", f"{TOKEN}x", "ä"])
def test_without_the_token_nothing_is_told(server: ProgressServer, token: str | None) -> None:
    assert ask(server, "/v1/progress/known", token)[0] == 401
    assert ask(server, "/v1/progress/unknown", token)[0] == 401


@pytest.mark.parametrize(
    "path", ["/", "/v1/progress/", "/v1/progress/unknown", "/v1/progress/../known", "/known"]
)
def test_everything_else_is_not_found(server: ProgressServer, path: str) -> None:
    assert ask(server, path)[0] == 404


def test_only_reading_is_offered(server: ProgressServer) -> None:
    assert ask(server, "/v1/progress/known", method="POST")[0] == 501


def test_a_pod_without_a_token_answers_nobody() -> None:
    server = ProgressServer(0, "", {"known": "{}"}.get)
    server.start()
    try:
        assert ask(server, "/v1/progress/known", "")[0] == 401
    finally:
        server.shutdown()
        server.server_close()


def test_silent_callers_cost_no_more_than_their_places(server: ProgressServer) -> None:
    silent = [
        socket.create_connection(("127.0.0.1", server.server_port)) for _ in range(MAX_CALLERS * 2)
    ]
    for caller in silent:
        caller.close()
    for _ in range(50):
        try:
            if ask(server, "/v1/progress/known")[0] == 200:
                return
        except OSError:
            continue
    pytest.fail("the endpoint does not answer after silent callers left")
