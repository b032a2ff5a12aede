"""Files of a job's storage, read in its head's pod with the caller's own right to exec.

Each look is a short program in the pod that reads on from where the last one stopped: nothing is
left running there.  What it answers comes from the user's image and is read as such.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from deepspeed_operator.cli.ends import Unavailable
from deepspeed_operator.cli.picture import Job, printable

MOST_BYTES: Final = 256 * 1024
HEAD_CONTAINER: Final = "ray-head"

READER: Final = """
import json, pathlib, sys
want = json.loads(sys.argv[1])
left, found = want["most"], {}
for path in sorted(pathlib.Path(want["folder"]).glob(want["pattern"])):
    start = want["offsets"].get(path.name, 0)
    with path.open("rb") as file:
        file.seek(start)
        data = file.read(left)
    is_cut, whole = len(data) == left, data[: data.rfind(b"\\n") + 1]
    if is_cut or not want["over"]:
        data = whole or (data if is_cut else b"")
    if data:
        left -= len(data)
        found[path.name] = [start + len(data), data.decode(errors="replace")]
    if is_cut:
        break
print(json.dumps(found))
"""


class Place(Protocol):
    """Where jobs and their pods are."""

    def job(self, name: str) -> Job:
        """Read a job."""

    def pods(self, job: str) -> list[dict[str, Any]]:
        """Read the pods of a job."""

    def execute(self, pod: str, container: str, command: list[str]) -> str:
        """Run a command in a pod and return what it printed."""


def find_head(pods: Sequence[Mapping[str, Any]], cluster: str) -> str | None:
    """Return the name of the running head pod of a Ray cluster."""
    for pod in pods:
        labels = pod["metadata"].get("labels", {})
        place = (labels.get("ray.io/cluster"), labels.get("ray.io/node-type"))
        running = pod.get("status", {}).get("phase") == "Running"
        if place == (cluster, "head") and running:
            return str(pod["metadata"]["name"])
    return None


def read_files(place: Place, head: str, order: Mapping[str, Any]) -> dict[str, tuple[int, str]]:
    """Read on in the files of a folder; `order` has folder, pattern, offsets by name, and over.

    Returns the new offset and the text by name, whole lines only unless `over`.

    Raises:
        Unavailable: the pod cannot be read, or answers nonsense.
    """
    command = ["python", "-c", READER, json.dumps({**order, "most": MOST_BYTES})]
    answer = place.execute(head, HEAD_CONTAINER, command)
    try:
        found = json.loads(answer)
        return {str(name): (int(offset), str(text)) for name, (offset, text) in found.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise Unavailable(
            f"the head's Python answers nonsense: {printable(answer[:300])}"
        ) from error
