"""When something was first seen: watches of a namespace's objects, each event with its time.

    with Sight(cluster) as sight:
        sight.watch("ray.io/v1", "rayclusters", "bench", notice)

`notice(object, is_there, at)` is called in the watch's thread. An error there is raised by `check`
and at the end. The API server closes watches of those who read slowly, and any after a while: they
go on where they were.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

from kubernetes.client import CustomObjectsApi
from kubernetes.config import new_client_from_config

from devcluster.cluster import Cluster

Object = dict[str, Any]
Notice = Callable[[Object, bool, float], None]
"""Called with the object, whether it is there, and the time in seconds since the epoch."""


class Sight:
    """Watches that live as long as its block."""

    def __init__(self, cluster: Cluster) -> None:
        self._api = CustomObjectsApi(new_client_from_config(str(cluster.kubeconfig)))
        self._answers: dict[int, Any] = {}
        self._ended = threading.Event()
        self.error: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for answer in self._answers.values():
            answer.shutdown()  # a close would wait for the thread that reads
        self.check()

    def check(self) -> None:
        """Raise what ended a watch."""
        if self.error is not None:
            raise self.error

    def watch(self, version: str, plural: str, namespace: str, notice: Notice) -> None:
        """Begin to watch, from the present on; what is there already is noticed first."""
        group, _, version = version.partition("/")
        number = len(self._answers)

        def open_after(seen: str) -> Any:
            after = {"resource_version": seen} if seen else {}
            self._answers[number] = self._api.list_namespaced_custom_object(
                group, version, namespace, plural, watch=True, _preload_content=False, **after
            )
            return self._answers[number]

        answer = open_after("")
        threading.Thread(
            target=self._follow, args=(answer, open_after, notice), daemon=True
        ).start()

    def _follow(self, answer: Any, open_after: Callable[[str], Any], notice: Notice) -> None:
        seen = ""
        while not self._ended.is_set():
            try:
                for event, at in _events(answer):
                    seen = event["object"]["metadata"]["resourceVersion"]
                    notice(event["object"], event["type"] != "DELETED", at)
                answer = open_after(seen)
            except Exception as error:  # noqa: BLE001  raised by check, in the thread that waits
                if not self._ended.is_set():
                    self.error = error
                return


def _events(answer: Any) -> Iterator[tuple[Object, float]]:
    """Each event of a watch and when it arrived. Raises: RuntimeError for the server's error."""
    rest = b""
    for chunk in answer.stream(amt=None, decode_content=False):
        at = time.time()
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            event = json.loads(line)
            if event["type"] == "ERROR":
                raise RuntimeError(f"the watch ended: {event['object']}")
            yield event, at
