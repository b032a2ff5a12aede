"""Which files of a folder a Dockerfile can see: the rules of .dockerignore.

Needed to tell whether an image must be built again. Patterns match paths from the folder's root;
`**` spans folders; `!` takes back; the last pattern that matches a file, or a folder above it,
decides.
"""

import re
from collections.abc import Iterator
from pathlib import Path

Pattern = tuple[re.Pattern[str], bool]


def ignore_file(dockerfile: Path, context: Path) -> Path | None:
    """The rules for this Dockerfile: its own if it has some, or else those of the folder."""
    for candidate in (
        dockerfile.with_name(f"{dockerfile.name}.dockerignore"),
        context / ".dockerignore",
    ):
        if candidate.exists():
            return candidate
    return None


def read_patterns(rules: Path | None) -> list[Pattern]:
    """The patterns of a file, each with whether it ignores (or takes back)."""
    lines = [] if rules is None else rules.read_text().splitlines()
    patterns = []
    for line in lines:
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        ignores = not text.startswith("!")
        path = text.removeprefix("!").strip().strip("/").removeprefix("./")
        if path:
            patterns.append((re.compile(_expression(path)), ignores))
    return patterns


def _expression(path: str) -> str:
    """The regular expression of a pattern; it also matches everything below what it names."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^]]+\])", path)
    meant = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    words = [
        meant.get(p, p.replace("[^", "[^/") if p.startswith("[") else re.escape(p)) for p in parts
    ]
    return f"^{''.join(words)}(?:/.*)?$"


def is_ignored(path: str, patterns: list[Pattern]) -> bool:
    """Whether the last pattern that matches this path says so."""
    verdict = False
    for expression, ignores in patterns:
        if expression.match(path):
            verdict = ignores
    return verdict


def visible_files(context: Path, patterns: list[Pattern]) -> Iterator[Path]:
    """The files that COPY can see, in a fixed order."""
    takes_back = any(not ignores for _, ignores in patterns)
    for entry in sorted(context.iterdir()):
        yield from _visible(entry, entry.name, patterns, takes_back)


def _visible(entry: Path, path: str, patterns: list[Pattern], takes_back: bool) -> Iterator[Path]:
    ignored = is_ignored(path, patterns)
    if entry.is_dir() and not entry.is_symlink():
        if ignored and not takes_back:
            return
        for below in sorted(entry.iterdir()):
            yield from _visible(below, f"{path}/{below.name}", patterns, takes_back)
    elif not ignored:
        yield entry
