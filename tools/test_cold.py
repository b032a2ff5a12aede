"""Run a make target as on a new machine: `make test-cold`, or `python -m tools.test_cold TARGET`.

A fresh clone of HEAD, an empty home and empty caches, inside a fresh minimal Debian that holds
Python, make and git and nothing else. So a program that set-up calls without declaring it is not
there, and the run fails: a warm machine would hide that. Where no such Debian can be made, only
home and caches are empty, and it says so. Left out: a fresh kernel, network and disk.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from devcluster.errors import DevclusterError
from devcluster.imagebuild import debian_archive
from devcluster.paths import cache_dir, is_root
from devcluster.steps import Shell, Step, run_steps
from devcluster.versions import DEBIAN

ROOT = Path(__file__).resolve().parent.parent
GIVEN = ("python3", "make", "git", "ca-certificates")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What an environment says about the machine's way to the outside stays; all else is as new.
KEPT = re.compile(
    r"(PIP_|.*_proxy|.*_PROXY|SSL_|.*_CA_BUNDLE|.*CERT|GOPROXY|GOSUMDB|GONOSUMDB|CI$)"
)
DROPPED = re.compile(r"PIP_CACHE_DIR")
LENT = ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf")
SHOWN = 5
STEP = re.compile(r"✓ (?P<name>.+) \((?P<seconds>[\d.]+)s\)")
TEST = re.compile(r"^(?P<seconds>[\d.]+)s (?P<name>(?:call|setup|teardown) .+)")


def new_environment(home: str, path: str, lent_folders: Mapping[str, str]) -> dict[str, str]:
    """The environment of somebody who has just logged in on a new machine."""
    kept = {k: v for k, v in os.environ.items() if KEPT.match(k) and not DROPPED.match(k)}
    for outside, inside in lent_folders.items():
        kept["PIP_FIND_LINKS"] = kept["PIP_FIND_LINKS"].replace(outside, inside)
    caches = {"XDG_CACHE_HOME": ".cache", "XDG_STATE_HOME": ".state", "PIP_CACHE_DIR": ".pip"}
    caches |= {"GOMODCACHE": ".go/mod", "GOCACHE": ".go/build", "GOPATH": ".go"}
    return {
        **kept,
        **{name: f"{home}/{folder}" for name, folder in caches.items()},
        "HOME": home,
        "PATH": path,
        "LANG": "C.UTF-8",
    }


def clone(shell: Shell, target: Path) -> None:
    """Clone HEAD as it is committed, without links to this clone."""
    shell.run(["git", "clone", "--quiet", "--no-local", f"file://{ROOT}", target])


def make_debian(shell: Shell, root: Path) -> None:
    """Make the fresh Debian, and lend it this machine's certificates and names of servers."""
    include = f"--include={','.join(GIVEN)}"
    shell.run(["debootstrap", "--variant=minbase", include, DEBIAN, root, debian_archive()])
    for lent in LENT:
        if Path(lent).exists():
            shutil.copyfile(lent, root / lent.lstrip("/"))
    for file in Path("/etc/ssl/certs").glob("*.crt"):
        shutil.copyfile(file, root / "etc/ssl/certs" / file.name)
    clone(shell, root / "src" / "clone")


def entry_script(root: Path, folders: Mapping[str, str], target: str) -> str:
    """Shell lines that make `root` the root of a mount namespace and run make in it.

    A real change of root and no chroot, because containers cannot be started from a chroot.
    """
    inside = shlex.quote(str(root))
    lines = [
        "set -e",
        f"mount --bind {inside} {inside}",
        f"mount -t proc proc {inside}/proc",
        f"mount --rbind /sys {inside}/sys",
        f"mount --rbind /dev {inside}/dev",
        f"mount -t tmpfs tmpfs {inside}/run",
    ]
    for outside, within in folders.items():
        lines.append(f"mkdir -p {inside}{within}")
        lines.append(f"mount --bind -o ro {shlex.quote(outside)} {inside}{within}")
    lines += [
        f"mkdir -p {inside}/old && cd {inside} && pivot_root . old && umount -l /old",
        # No exec: the first process of a namespace has to collect what daemons leave behind.
        f"cd /src/clone && make {shlex.quote(target)}; exit",
    ]
    return "\n".join(lines)


def command_in_debian(root: Path, target: str) -> tuple[list[str], dict[str, str]]:
    """The command and environment that run make in the fresh Debian."""
    links = [word for word in os.environ.get("PIP_FIND_LINKS", "").split() if Path(word).is_dir()]
    folders = {str(Path(link).resolve()): f"/wheels{i}" for i, link in enumerate(links)}
    renamed = {link: folders[str(Path(link).resolve())] for link in links}
    script = entry_script(root, folders, target)
    # With a namespace of processes, nothing that was started in there outlives the run.
    spaces = ["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
    command = ["unshare", *spaces, "bash", "-c", script]
    return command, new_environment("/root", SYSTEM_PATH, renamed)


def command_here(folder: Path, target: str) -> tuple[list[str], dict[str, str]]:
    """The command and environment that run make in a clone on this machine."""
    (folder / "home").mkdir()
    command = ["make", "-C", str(folder / "clone"), target]
    return command, new_environment(str(folder / "home"), os.environ["PATH"], {})


def prepare(folder: Path, target: str) -> tuple[list[str], dict[str, str]]:
    """Make the fresh place, as fresh as this machine allows, and say how to run in it."""
    logs, root = folder / "logs", folder / "debian"
    if not is_root() or shutil.which("debootstrap") is None:
        print("test-cold: no fresh Debian, for that takes root and debootstrap; "
              "home and caches are empty", file=sys.stderr)  # fmt: skip
        run_steps([Step("clone", lambda shell: clone(shell, folder / "clone"))], logs=logs)
        return command_here(folder, target)
    run_steps([Step("fresh debian", lambda shell: make_debian(shell, root))], logs=logs)
    return command_in_debian(root, target)


def run(command: list[str], environment: Mapping[str, str]) -> tuple[int, list[str]]:
    """Run to the end with the output passed on; the exit code and the lines."""
    lines = []
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace",
    ) as process:  # fmt: skip
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line)
    return process.returncode, lines


def durations(lines: list[str]) -> Iterator[tuple[float, str]]:
    """How long each step of set-up and each slow test took, as they said."""
    for line in lines:
        if found := STEP.search(line) or TEST.match(line):
            yield float(found["seconds"]), found["name"]


def main() -> int:
    """Run and tell the total and the slowest steps; the exit code is make's."""
    target = sys.argv[1] if len(sys.argv) > 1 else "test"
    base = cache_dir().parent
    base.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(
        prefix="test-cold-", dir=base, ignore_cleanup_errors=True
    ) as folder:
        try:
            command, environment = prepare(Path(folder), target)
        except DevclusterError as error:
            print(f"test-cold: {error}", file=sys.stderr)
            return 1
        code, lines = run(command, environment)
    slowest = sorted(durations(lines), reverse=True)[:SHOWN]
    print(f"\ncold `make {target}` took {time.monotonic() - began:.0f} s and ended with {code}; "
          "the slowest steps:")  # fmt: skip
    print("\n".join(f"  {seconds:7.1f} s  {name}" for seconds, name in slowest))
    return code


if __name__ == "__main__":
    sys.exit(main())
