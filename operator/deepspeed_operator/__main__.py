"""The composition root: settings, logs, clients, store and loop, with kopf as the host of watches.

Started as `python -m deepspeed_operator`.  Everything here is made to be killed at any moment, so
ending means cancelling: kopf hears the signal, its watches end, and then all the rest.
"""

import asyncio
import logging
import os
import sys
from contextlib import AsyncExitStack

from deepspeed_operator.act.apply import Executor
from deepspeed_operator.clients.access import load_configuration
from deepspeed_operator.clients.kube import KubeClient
from deepspeed_operator.clients.rayhead import HeadClient
from deepspeed_operator.clients.tokens import open_tokens
from deepspeed_operator.decide.observed import Defaults
from deepspeed_operator.errors import OperatorError
from deepspeed_operator.loop import Loop, Rooms
from deepspeed_operator.settings import SettingInvalid, Settings, read_settings
from deepspeed_operator.telemetry import serve_health, set_up_logs
from deepspeed_operator.watch.handlers import watch
from deepspeed_operator.watch.heads import HeadPoller
from deepspeed_operator.watch.inbox import Inbox
from deepspeed_operator.watch.prerequisites import PrerequisiteReader
from deepspeed_operator.watch.relist import Relister, announce_kuberay
from deepspeed_operator.watch.store import Store

log = logging.getLogger("deepspeed_operator")


async def run(settings: Settings) -> None:
    """Operate until a signal asks to end.

    Raises:
        OperatorError: the API server cannot be used at all.
    """
    store, inbox = Store(), Inbox()
    async with AsyncExitStack() as stack:
        kube = await stack.enter_async_context(KubeClient(await load_configuration()))
        heads = await stack.enter_async_context(HeadClient())
        tokens = await open_tokens(kube, settings.namespace)
        poller = HeadPoller(
            heads, tokens, store, inbox, figures_interval_s=settings.progress_interval_s
        )
        stack.push_async_callback(poller.close)
        rooms = Rooms(
            store=store,
            inbox=inbox,
            prerequisites=PrerequisiteReader(kube),
            heads=poller,
            executor=Executor(kube, heads, tokens),
            kube=kube,
        )
        loop = Loop(rooms, _build_defaults(settings), workers=settings.workers)
        relister = Relister(kube, store, inbox, settings.watch_namespaces)
        await stack.enter_async_context(
            serve_health(
                settings.health_port,
                is_alive=lambda: loop.is_alive,
                is_ready=relister.is_complete.is_set,
            )
        )
        kuberay_appeared = asyncio.Event()
        group = await stack.enter_async_context(asyncio.TaskGroup())
        ours = [
            group.create_task(relister.run(), name="relister"),
            group.create_task(loop.run(relister.is_complete), name="loop"),
            group.create_task(announce_kuberay(kube, kuberay_appeared), name="discovery"),
        ]
        # Only after the first lists is it certain that the API server serves our own kind.
        await relister.is_complete.wait()
        await watch(store, inbox, settings.watch_namespaces, anew=kuberay_appeared)
        for task in ours:
            task.cancel()


def _build_defaults(settings: Settings) -> Defaults:
    return Defaults(
        trainer_image=settings.trainer_image,
        injector_image=settings.injector_image,
        progress_interval_s=settings.progress_interval_s,
        capacity_check=settings.capacity_check,
    )


def main() -> int:
    """Return the exit code: 2 for settings that cannot be used."""
    try:
        settings = read_settings(os.environ)
    except SettingInvalid as error:
        print(f"deepspeed-operator: {error}", file=sys.stderr)  # noqa: T201  no logs yet
        return 2
    set_up_logs(settings.log_level, settings.log_format)
    exit_code = 0
    try:
        asyncio.run(run(settings))
    except* OperatorError as ended:
        log.error("operator ends", extra={"why": "; ".join(map(str, ended.exceptions))})  # noqa: TRY400
        exit_code = 1
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
