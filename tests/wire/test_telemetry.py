"""Logs and health as the platform sees them."""

import json
import logging
from collections.abc import Iterator

import aiohttp
import pytest

from deepspeed_operator.telemetry import bind_job, serve_health, set_up_logs


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def test_a_line_is_json_with_its_fields_and_the_job_at_hand(
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_up_logs("INFO", "json")
    log = logging.getLogger("deepspeed_operator.loop")
    with bind_job("team-a/demo"):
        log.info("submits the run", extra={"changes": True})
    log.info("goes on")
    log.debug("not shown")
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert first["event"] == "submits the run"
    assert (first["level"], first["job"], first["changes"]) == ("INFO", "team-a/demo", True)
    assert "job" not in second


def test_a_traceback_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs("INFO", "json")
    try:
        int("a fault")
    except ValueError:
        logging.getLogger("x").exception("pass failed")
    [line] = capsys.readouterr().err.splitlines()
    assert "a fault" in json.loads(line)["error"]


def test_text_has_the_same_fields(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs("INFO", "text")
    with bind_job("team-a/demo"):
        logging.getLogger("x").info("goes on", extra={"again_in_s": 5})
    assert "goes on job=team-a/demo again_in_s=5" in capsys.readouterr().err


async def test_health_follows_what_it_is_told() -> None:
    state = {"alive": True, "ready": False}
    async with (
        serve_health(
            0, is_alive=lambda: state["alive"], is_ready=lambda: state["ready"], host="127.0.0.1"
        ) as port,
        aiohttp.ClientSession() as session,
    ):

        async def ask(path: str) -> int:
            async with session.get(f"http://127.0.0.1:{port}{path}") as response:
                return response.status

        assert (await ask("/healthz"), await ask("/readyz")) == (200, 503)
        state.update(alive=False, ready=True)
        assert (await ask("/healthz"), await ask("/readyz")) == (503, 200)
        assert await ask("/metrics") == 404
