"""Another number of nodes: the attempt that runs ends for it, and the next one has them.

An attempt keeps the size that it was opened with.  What is written down first is its end; its
RayCluster goes in the next pass, and the next attempt waits for its pods as after any other end.
A size that the run cannot have is told and not taken: nothing ends for it.
"""

from dataclasses import replace

from deepspeed_operator.api.names import Phase, Reason
from deepspeed_operator.decide.actions import Plan
from deepspeed_operator.decide.deepspeed import read_config
from deepspeed_operator.decide.ending import close_attempt
from deepspeed_operator.decide.observed import RunState
from deepspeed_operator.decide.status import Outlook, derive_event, revise
from deepspeed_operator.decide.view import View
from deepspeed_operator.errors import InvalidJob

_ENDED = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.STOPPED})


def keep_size(view: View) -> View:
    """Return the view with the open attempt's own size, where the wanted one cannot be."""
    attempt = view.open_attempt
    if attempt is None or attempt.nodes in (None, view.spec.nodes):
        return view
    try:
        read_config(view.spec, _known_config_maps(view), view.first_nodes)
    except InvalidJob as error:
        spec = view.spec.model_copy(update={"nodes": attempt.nodes})
        told = f"spec.nodes {view.spec.nodes} is not taken: {error}"
        return replace(view, spec=spec, size_refusal=told)
    return view


def size_was_changed(view: View) -> Plan | None:
    """End an attempt that has another number of nodes than is wanted now."""
    attempt, wanted = view.open_attempt, view.spec.nodes
    if attempt is None or attempt.nodes in (None, wanted) or view.run_state in _ENDED:
        return None
    outlook = Outlook(
        phase=Phase.RESTARTING,
        reason=Reason.RESIZED,
        message=(
            f"spec.nodes is {wanted} now: attempt {attempt.number} ends on {attempt.nodes} nodes,"
            " the next one continues from the newest checkpoint"
        ),
    )
    attempts = close_attempt(view, attempt, state="Failed", cause=Reason.RESIZED)
    return Plan(
        sentence=outlook.message,
        status=revise(view, outlook, attempts=attempts),
        locked=True,
        events=derive_event(view, outlook),
        requeue_after_s=0,
    )


def _known_config_maps(view: View) -> dict[str, dict[str, str] | None]:
    """Return what was read of ConfigMaps; the rest is looked at before the next attempt opens."""
    source, answers = view.spec.deepspeed.config_map, view.observed.prerequisites
    if source is None:
        return {}
    known = {} if answers is None else answers.config_maps
    found = known.get(source.name)
    return {source.name: dict(found) if found else {source.key: "{}"}}
