"""A job in words: one line for who follows it, a page for who looks at it, a row for a list.

Pure, and the one renderer of all verbs, of local runs and of the demo.  It reads a job as the API
server holds it.  Text that comes from a job's program is made harmless for terminals.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from rich.table import Table
from rich.text import Text

Job = Mapping[str, Any]

STYLES: Final = {
    "Succeeded": "green",
    "Running": "cyan",
    "Restarting": "yellow",
    "Failed": "red",
}
LABEL_WIDTH: Final = 13
TAIL_MARK: Final = "    │ "


def condition(job: Job, kind: str) -> Mapping[str, Any]:
    """The job's condition of this type; empty when it has none yet."""
    return next((each for each in _conditions(job) if each["type"] == kind), {})


def is_true(job: Job, kind: str) -> bool:
    """Whether this condition holds for the spec as it is now."""
    found = condition(job, kind)
    generation = job.get("metadata", {}).get("generation")
    seen = found.get("observedGeneration", generation)
    return found.get("status") == "True" and (generation is None or seen == generation)


def describe(job: Job) -> str:
    """One line: where the job is, how far and how fast, and why it waits."""
    status = job.get("status", {})
    parts = [f"{status.get('phase', 'New'):<10}"]
    if _has_stepped(job) and not _waits(job):
        parts += describe_progress(status["progress"])
    else:
        ready = condition(job, "Ready")
        parts.append(f"{ready.get('reason', '')}: {ready.get('message', 'not seen yet')}")
    if status.get("restarts"):
        parts.append(f"restarts {status['restarts']}")
    return printable("  ".join(parts))


def describe_progress(progress: Mapping[str, Any]) -> list[str]:
    """Step, loss, rate and figures, as far as they are known."""
    total = progress.get("totalSteps")
    parts = [f"step {progress.get('step', 0)}{f'/{total}' if total else ''}"]
    for key, label in (("epoch", "epoch"), ("loss", "loss"), ("samplesPerSecond", "samples/s")):
        if progress.get(key) is not None:
            parts.append(f"{label} {progress[key]}")
    for each in progress.get("metrics", []):
        # A program may report a loss of its own, the mean of an epoch for instance.
        own = "reported " if progress.get(each["name"]) is not None else ""
        parts.append(f"{own}{each['name']} {each['value']}")
    return parts


def conditions_table(job: Job, *, only_telling: bool = False) -> str:
    """The job's conditions, a line each; `only_telling` leaves out those that do not hold."""
    found = _conditions(job)
    if only_telling:
        found = [each for each in found if each["status"] != "False" or each["type"] == "Ready"]
    rows, said = [], set[str]()
    for each in found:
        message = each.get("message", "")
        rows.append(f"    {each['type']:<14}{each['status']:<9}{each.get('reason', ''):<22}")
        if not only_telling or message not in said:
            rows[-1] += message
        said.add(message)
    return printable("\n".join(["  conditions:", *(rows or ["    none yet"])]))


def failure_lines(job: Job) -> list[str]:
    """The first cause of the last failure and the failed rank's last lines; empty without one."""
    failure = job.get("status", {}).get("failure")
    if not failure:
        return []
    where = []
    if failure.get("rank") is not None:
        where.append(f"rank {failure['rank']}")
    if failure.get("node"):
        where.append(f"pod {failure['node']}")
    if failure.get("exitCode") is not None:
        where.append(f"exit code {failure['exitCode']}")
    lines = [f"{failure.get('cause', '')}: {failure.get('message', '')}"]
    tail = failure.get("logTail", [])
    if where:
        lines.append(f"{', '.join(where)}{'; its last lines:' if tail else ''}")
    return [printable(line) for line in [*lines, *(f"{TAIL_MARK}{line}" for line in tail)]]


def render_status(job: Job, now: datetime) -> Text:
    """The whole picture of a job."""
    status, name = job.get("status", {}), job["metadata"]["name"]
    phase = status.get("phase", "New")
    page = Text(f"{name}  ").append(phase, style=f"bold {STYLES.get(phase, '')}".strip())
    if status.get("startTime"):
        end = _read_time(status["finishTime"]) if status.get("finishTime") else now
        word = "after" if status.get("finishTime") else "for"
        page.append(f"  {word} {format_span(end, _read_time(status['startTime']))}")
    for label, lines in _sections(job, now):
        page.append(f"\n  {label:<{LABEL_WIDTH}}", style="dim")
        page.append(f"\n{' ' * (LABEL_WIDTH + 2)}".join(lines))
    return page.append("\n").append(conditions_table(job, only_telling=True))


def render_list(jobs: Sequence[Job], now: datetime, *, with_namespace: bool) -> Table:
    """One row a job."""
    table = Table(box=None, pad_edge=False, header_style="")
    names = ("name", "phase", "nodes", "step", "loss", "restarts", "age", "why")
    for title in ("namespace", *names) if with_namespace else names:
        table.add_column(title.upper(), overflow="fold")
    for job in jobs:
        row = _row(job, now)
        table.add_row(*([job["metadata"]["namespace"]] if with_namespace else []), *row)
    return table


def format_span(later: datetime, earlier: datetime) -> str:
    """Return the time between two moments as kubectl writes ages: 42s, 3m12s, 5h7m, 4d3h."""
    seconds = max(0, int((later - earlier).total_seconds()))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if minutes == 0:
        return f"{seconds}s"
    if hours == 0:
        return f"{minutes}m{seconds % 60}s"
    return f"{hours}h{minutes % 60}m" if days == 0 else f"{days}d{hours % 24}h"


def printable(text: str) -> str:
    """Return text without characters that could steer a terminal."""
    return "".join(char if char.isprintable() or char == "\n" else " " for char in text)


def _sections(job: Job, now: datetime) -> Iterator[tuple[str, list[str]]]:
    status, ready = job.get("status", {}), condition(job, "Ready")
    why = f"{ready.get('reason', '')}: {ready.get('message', '')}"
    yield "why", [printable(why) if ready else "the operator has not seen it yet"]
    if _has_stepped(job):
        yield "progress", [printable("  ".join(describe_progress(status["progress"])))]
    notice = (status.get("progress") or {}).get("notice")
    if notice:
        yield "notice", [printable(notice)]
    if status.get("checkpoint"):
        saved = status["checkpoint"]
        age = format_span(now, _read_time(saved["time"]))
        yield "checkpoint", [printable(f"step {saved['step']}, {age} ago, in {saved['path']}")]
    if status.get("cluster"):
        cluster = status["cluster"]
        head = f", head {cluster['head']}" if cluster.get("head") else ""
        yield (
            "cluster",
            [f"{cluster['name']}{head}, {cluster.get('readyWorkers', 0)} workers ready"],
        )
    if status.get("attempts"):
        yield "attempts", [_describe_attempt(each, now) for each in status["attempts"]]
    if status.get("failure"):
        yield "failure", failure_lines(job)


def _describe_attempt(attempt: Mapping[str, Any], now: datetime) -> str:
    end = _read_time(attempt["finishTime"]) if attempt.get("finishTime") else now
    parts = [f"{attempt['number']:<3}{attempt['state']:<11}"]
    parts.append(format_span(end, _read_time(attempt["startTime"])))
    if attempt.get("resumedFromStep") is not None:
        parts.append(f"continued from step {attempt['resumedFromStep']}")
    if attempt.get("cause"):
        parts.append(str(attempt["cause"]))
    return printable("  ".join(parts))


def _row(job: Job, now: datetime) -> list[str]:
    status, meta = job.get("status", {}), job["metadata"]
    progress = status.get("progress") or {}
    total = progress.get("totalSteps")
    step = f"{progress.get('step', '')}{f'/{total}' if total else ''}"
    created = meta.get("creationTimestamp")
    cells = [
        meta["name"],
        status.get("phase", "New"),
        job["spec"].get("nodes", ""),
        step,
        progress.get("loss", ""),
        status.get("restarts", 0),
        format_span(now, _read_time(created)) if created else "",
        condition(job, "Ready").get("reason", ""),
    ]
    return [printable(str(cell)) for cell in cells]


def _conditions(job: Job) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = job.get("status", {}).get("conditions", [])
    return found


def _has_stepped(job: Job) -> bool:
    return bool((job.get("status", {}).get("progress") or {}).get("step"))


def _waits(job: Job) -> bool:
    """Whether the job is on its way and trains nothing: then the reason is worth more."""
    return job.get("status", {}).get("phase") in ("Pending", "Starting", "Restarting")


def _read_time(text: str) -> datetime:
    return datetime.fromisoformat(text)
