"""The verbs of `dsjob`: parses, prints, and calls the modules that do the work.

Rooms with heavy imports (the Kubernetes client, the API types) open when a verb needs them, so
that --help is quick.
"""

import json
import signal
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
import yaml
from rich.console import Console
from typing_extensions import override

from deepspeed_operator.cli import manifests, picture
from deepspeed_operator.cli.ends import CliError, Denied, Exit, Unavailable, WrongUse
from deepspeed_operator.cli.follow import Follower

if TYPE_CHECKING:
    from deepspeed_operator.cli.cluster import Cluster
    from deepspeed_trainer.fingerprint.proof import History

Verb = TypeVar("Verb", bound=Callable[..., Any])

WIDE: Final = 1000
"""Columns where nobody looks: programs get whole lines."""
MOST_SHOWN: Final = 10


class Verbs(click.Group):
    """Turns errors into one sentence and an exit code."""

    @override
    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb."""
        try:
            return super().invoke(ctx)
        except CliError as error:
            click.echo(f"dsjob: {picture.printable(str(error))}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("dsjob: interrupted", err=True)
            ctx.exit(Exit.INTERRUPTED)


def cluster_options(verb: Verb) -> Verb:
    """Add the options that say which cluster, as kubectl has them."""
    for option in (
        click.option("-n", "--namespace", help="Namespace. Default: the kubeconfig's, or default."),
        click.option("--context", help="Context of the kubeconfig. Default: the current one."),
        click.option(
            "--kubeconfig", metavar="PATH", help="Default: $KUBECONFIG, ~/.kube/config, the pod's."
        ),
    ):
        verb = option(verb)
    return verb


watch_option = click.option("--watch", "-w", is_flag=True, help="Follow the job to its end.")
timeout_option = click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="With --watch: give up after this time. Default: never.",
)
files_option = click.option(
    "-f", "--filename", "files", multiple=True, required=True, metavar="FILE",
    help="Manifest with one or more objects; - for the input. May be given several times.",
)  # fmt: skip


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="deepspeed-operator")
def main() -> None:
    """Run DeepSpeedJobs: on a cluster, with your own rights, or on this machine."""


@main.command()
@files_option
@watch_option
@timeout_option
@click.option("--anew", is_flag=True, help="Delete a finished job of the same name first.")
@click.option("--force-conflicts", is_flag=True, help="Take over fields that others own.")
@cluster_options
def submit(
    *,
    files: tuple[str, ...],
    watch: bool,
    timeout_s: float | None,
    anew: bool,
    force_conflicts: bool,
    **where: str | None,
) -> None:
    """Hand a manifest to the cluster, by server-side apply."""
    from deepspeed_operator.cli import submit as hands  # noqa: PLC0415  see above

    objects = manifests.read_objects(files)
    hands.refuse_other_namespace(objects, where["namespace"])
    job = manifests.only_job(objects) if watch else None
    cluster = _open(where)
    hands.submit(cluster, objects, click.echo, anew=anew, force=force_conflicts)
    if job is not None:
        home = job["metadata"].get("namespace", cluster.namespace)
        cluster.namespace = home
        _watch(cluster, job["metadata"]["name"], timeout_s)


@main.command()
@click.argument("name")
@watch_option
@timeout_option
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json", "yaml"]),
    default="text",
    show_default=True,
    help="json and yaml: the job as the API server has it.",
)
@cluster_options
def status(
    *, name: str, watch: bool, timeout_s: float | None, output: str, **where: str | None
) -> None:
    """Show what a job does, how far it is, why it waits and why it failed."""
    cluster = _open(where)
    if watch:
        _watch(cluster, name, timeout_s)
    job = cluster.job(name)
    # As kubectl does: who wrote which field is of no use to who reads a status.
    job["metadata"].pop("managedFields", None)
    if output == "json":
        click.echo(json.dumps(job, indent=2))
    elif output == "yaml":
        click.echo(yaml.safe_dump(job, sort_keys=False, width=100, allow_unicode=True), nl=False)
    else:
        console().print(picture.render_status(job, now()), soft_wrap=True)
    if picture.is_true(job, "Failed"):
        sys.exit(Exit.FAILED)


@main.command()
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Read on until the job is finished.")
@click.option("--rank", type=click.IntRange(min=0), help="The lines of one rank. Default: all.")
@click.option(
    "--node",
    type=click.IntRange(min=0),
    help="All that the command of one node printed, where a command has per: Node.",
)
@click.option("--attempt", type=click.IntRange(min=1), help="Default: the last one.")
@cluster_options
def logs(
    *,
    name: str,
    follow: bool,
    rank: int | None,
    node: int | None,
    attempt: int | None,
    **where: str | None,
) -> None:
    """Print what the ranks wrote: while the job runs, and as long as its cluster is kept.

    It needs the right to exec into the job's pods.
    """
    from deepspeed_operator.cli.logs import LogReader, Wanted  # noqa: PLC0415  see above

    if rank is not None and node is not None:
        raise click.UsageError("--rank and --node exclude each other")
    wanted = Wanted(name, rank, node, attempt, follow)
    for line in LogReader(_open(where), wanted, partial(click.echo, err=True)).lines():
        click.echo(line)


@main.command()
@click.argument("words", nargs=-1, metavar="[-- COMMAND...]")
@click.option("-f", "--filename", "file", metavar="FILE", help="A RayJob's manifest; - for input.")
@click.option("--name", help="Name of the job. Default: the program's, or the RayJob's.")
@click.option("--image", help="Image of the job. Default: the RayJob's, or the operator's.")
def convert(
    *, words: tuple[str, ...], file: str | None, name: str | None, image: str | None
) -> None:
    """Print the job that a launcher's command line, or a KubeRay RayJob, would be.

    `dsjob convert -- deepspeed --num_nodes 2 --num_gpus 8 train.py --deepspeed_config ds.json`.
    deepspeed, torchrun, mpirun and accelerate launch are understood. What has no field, and what
    was guessed, is in the comments of the manifest. Files are read on this machine; nothing is
    sent to a cluster.
    """
    from deepspeed_operator.cli.convert import read  # noqa: PLC0415  see above

    click.echo(read.convert(words, file, name=name, image=image), nl=False)


@main.command()
@click.argument("name", required=False)
@click.option(
    "--path",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder with a run's records, instead of NAME.",
)
@click.option("--against", metavar="NAME", help="Compare with this job, step by step.")
@click.option(
    "--against-path",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The same with a folder.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0, max=1, min_open=True),
    help="Share that losses and norms may differ by. Default: no bit; needed across a resize.",
)
@cluster_options
def verify(
    *,
    name: str | None,
    path: Path | None,
    against: str | None,
    against_path: Path | None,
    tolerance: float | None,
    **where: str | None,
) -> None:
    """Prove that a run skipped and repeated no sample, and that two runs did the same.

    For programs that train with deepspeed_trainer.loop. A job is read through its head's pod.
    """
    from deepspeed_operator.cli import verify as hands  # noqa: PLC0415  see above

    def look(job: str | None, folder: Path | None) -> "History":
        if (job is None) == (folder is None):
            raise WrongUse("name a job or give a folder of records, one of the two")
        if folder is not None:
            return hands.understand(hands.read_folder(folder))
        return hands.understand(hands.read_job(_open(where), str(job)))

    history = look(name, path)
    reports = [hands.prove(name or str(path), history)]
    if against is not None or against_path is not None:
        other = look(against, against_path)
        reports.append(hands.prove(against or str(against_path), other))
        reports.append(hands.judge(history, other, tolerance))
    for line in (line for each in reports for line in each.lines):
        click.echo(picture.printable(line))
    if not all(each.is_proven for each in reports):
        sys.exit(Exit.FAILED)


@main.command("list")
@click.option("-A", "--all-namespaces", is_flag=True, help="The jobs of all namespaces.")
@cluster_options
def list_jobs(*, all_namespaces: bool, **where: str | None) -> None:
    """List jobs, a line each."""
    cluster = _open(where)
    jobs = cluster.jobs("" if all_namespaces else None)
    if not jobs:
        within = "in any namespace" if all_namespaces else f"in namespace {cluster.namespace}"
        click.echo(f"no DeepSpeedJobs {within}", err=True)
        return
    console().print(picture.render_list(jobs, now(), with_namespace=all_namespaces))


@main.command()
@files_option
@click.option(
    "--local",
    is_flag=True,
    expose_value=False,
    callback=lambda _context, _option, given: _require_local(given=given),
    help="On this machine. Required: on a cluster, submit.",
)
@click.option("--name", help="Which job, where the files hold several.")
@click.option(
    "--storage",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for checkpoints and logs. Default: ./dsjob-local/NAME.",
)
@click.option(
    "--workdir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=".",
    help="Folder that holds the program, as the image's working directory does. Default: here.",
)
@click.option(
    "--accelerator",
    type=click.Choice(["Nvidia", "CPU"]),
    help="Instead of the job's own: CPU tries a job for GPUs on a machine without any.",
)
@click.option("--python", help="Python with ray, torch and deepspeed. Default: PATH's, then ours.")
@click.option("--resume", is_flag=True, help="Continue the last local run from its checkpoint.")
@timeout_option
def run(
    *,
    files: tuple[str, ...],
    name: str | None,
    storage: Path | None,
    workdir: Path,
    accelerator: str | None,
    python: str | None,
    resume: bool,
    timeout_s: float | None,
) -> None:
    """Run a job on this machine: a private Ray, ranks as processes, no Kubernetes.

    The same manifest, checks, driver and view as on a cluster. One attempt; nothing is left
    running, whatever ends it.
    """
    from deepspeed_operator.cli.local import run as hands  # noqa: PLC0415  see above
    from deepspeed_operator.cli.local.plan import Wishes  # noqa: PLC0415  see above

    objects = manifests.read_objects(files)
    job = manifests.only_job(objects, name)["metadata"]["name"]
    wishes = Wishes(
        storage=storage or Path("dsjob-local") / job,
        job=job,
        accelerator=accelerator,
        resume=resume,
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(Exit.ENDED))
    tell = partial(click.echo, err=True)
    outcome = hands.run_local(
        objects, wishes, tell, now, python=python, workdir=workdir, deadline_s=timeout_s
    )
    console().print(picture.render_status(outcome.job, now()), soft_wrap=True)
    if not picture.is_true(outcome.job, "Complete"):
        tell("\n".join(["", f"{job} failed; what the ranks wrote:", *outcome.last_words]))
        sys.exit(Exit.FAILED)


def _require_local(*, given: bool) -> None:
    if not given:
        raise click.UsageError("run needs --local; `dsjob submit` runs a job on a cluster")


def console() -> Console:
    """The output: as wide as the terminal, and unbounded where there is none."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)


def now() -> datetime:
    """The moment that ages are counted from."""
    return datetime.now(UTC)  # noqa: TID251  the command is where time enters


def _open(where: dict[str, str | None]) -> "Cluster":
    from deepspeed_operator.cli.cluster import Cluster, Where  # noqa: PLC0415  see above

    return Cluster.open(Where(**where))


def _watch(cluster: "Cluster", name: str, deadline_s: float | None) -> None:
    """Follow a job; ends the process with 1 when it failed."""
    follower = Follower(
        look=lambda: cluster.job(name),
        say=click.echo,
        report=lambda job: report(cluster, job),
        deadline_s=deadline_s,
    )
    job = follower.follow()
    if not picture.is_true(job, "Complete"):
        click.echo("\n".join(["", f"{name} failed:", *picture.failure_lines(job)]), err=True)
        sys.exit(Exit.FAILED)


def report(cluster: "Cluster", job: picture.Job) -> Iterator[str]:
    """What one looks for when nothing happens: conditions, pods, warnings."""
    yield picture.conditions_table(job, only_telling=True)
    name = job["metadata"]["name"]
    try:
        yield "  pods:"
        pods = [_describe_pod(pod) for pod in cluster.pods(name)]
        yield from pods[:MOST_SHOWN] or ["    none"]
        yield "  warnings:"
        warnings = [each for each in cluster.events() if _warns_about(name, each)]
        yield from [_describe_event(each) for each in warnings[-MOST_SHOWN:]] or ["    none"]
    except (Denied, Unavailable) as error:
        yield f"    {error}"


def _describe_pod(pod: dict[str, Any]) -> str:
    status = pod.get("status", {})
    node = pod["spec"].get("nodeName", "no node yet")
    return f"    {pod['metadata']['name']}  {status.get('phase', '')}  {node}"


def _warns_about(job: str, event: dict[str, Any]) -> bool:
    """Whether an event is a warning about the job or one of its children, by their names."""
    about = event.get("regarding", {}).get("name", "")
    return event.get("type") == "Warning" and (about == job or about.startswith(f"{job}-"))


def _describe_event(event: dict[str, Any]) -> str:
    about = event.get("regarding", {}).get("name", "")
    return picture.printable(f"    {about}: {event.get('reason', '')}: {event.get('note', '')}")
