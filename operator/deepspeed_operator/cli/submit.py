"""Hand objects to the API server: one after the other, and every refusal with its field.

What was accepted before a refusal stays, as with `kubectl apply`.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from deepspeed_operator.cli.cluster import Cluster
from deepspeed_operator.cli.ends import NotThere, Refused, TooLate, WrongUse
from deepspeed_operator.cli.manifests import Object, is_job
from deepspeed_operator.cli.picture import is_true

DELETION_S: Final = 120.0
POLL_S: Final = 0.3


def submit(
    cluster: Cluster,
    objects: Sequence[Object],
    say: Callable[[str], None],
    *,
    anew: bool = False,
    force: bool = False,
) -> list[Object]:
    """Apply all objects and return the jobs as the server has them.

    With `anew` a job of the same name that is finished is deleted first.

    Raises:
        Refused: at least one object; the message has all refusals.
    """
    jobs, refusals = [], []
    for wanted in objects:
        label = f"{wanted['kind'].lower()}/{wanted['metadata']['name']}"
        try:
            if anew and is_job(wanted):
                _clear_finished(cluster, wanted["metadata"]["name"], say)
            found, is_new = cluster.apply(wanted, force=force)
        except Refused as refusal:
            refusals.append(describe_refusal(label, refusal))
            continue
        say(f"{label} {'created' if is_new else 'applied'}")
        if is_job(found):
            jobs.append(found)
            if is_true(found, "Finished"):
                say(f"  it had finished before and does not run again: {_way_on(found)}")
    if refusals:
        raise Refused("\n".join(refusals))
    return jobs


def describe_refusal(label: str, refusal: Refused) -> str:
    """Return the refusal with a line for each field that the server names."""
    named = [(field, message) for field, message in refusal.causes if field]
    if refusal.status == 409:
        others = "; ".join(message for _, message in named) or str(refusal)
        return (
            f"{label} is refused: others own what would change ({others});"
            " --force-conflicts takes it over"
        )
    if not named:
        return f"{label} is refused: {refusal}"
    return "\n".join([f"{label} is refused:", *_lines(named)])


def refuse_other_namespace(objects: Sequence[Object], namespace: str | None) -> None:
    """Raise WrongUse when an object names another namespace than -n does."""
    for found in objects:
        own = found["metadata"].get("namespace")
        if namespace is not None and own is not None and own != namespace:
            raise WrongUse(
                f"{found['kind']} {found['metadata']['name']} says namespace {own!r}, and"
                f" --namespace says {namespace!r}: leave one of them out"
            )


def _lines(causes: Sequence[tuple[str, str]]) -> Iterator[str]:
    seen = set()
    for field, message in causes:
        if (field, message) not in seen:
            seen.add((field, message))
            yield f"  {field}: {message}"


def _way_on(job: Mapping[str, Any]) -> str:
    phase = job["status"].get("phase", "Finished")
    return f"it is {phase}; `dsjob submit --anew` deletes it first"


def _clear_finished(cluster: Cluster, name: str, say: Callable[[str], None]) -> None:
    """Delete a finished job of this name and wait until it is gone."""
    try:
        job = cluster.job(name)
        if not is_true(job, "Finished"):
            return
        say(f"deepspeedjob/{name} is finished: deleting it, to run it anew")
        cluster.delete_job(job)
        deadline = time.monotonic() + DELETION_S
        while cluster.job(name)["metadata"]["uid"] == job["metadata"]["uid"]:
            if time.monotonic() > deadline:
                raise TooLate(f"{name} is still being deleted after {DELETION_S:.0f} s")
            time.sleep(POLL_S)
    except NotThere:
        return
