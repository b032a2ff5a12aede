"""Hostile and honest archives: what gets in is files, folders and links that stay inside."""

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deepspeed_trainer.source import pack
from deepspeed_trainer.source.faults import CodeRefused
from deepspeed_trainer.source.pack import Gate, Member, copy_archive, unpack

Entry = tuple[str, dict[str, Any]]


def a_file(name: str, text: str = "print(1)", **more: Any) -> Entry:
    return name, {"data": text.encode(), **more}


def a_link(name: str, target: str) -> Entry:
    return name, {"type": tarfile.SYMTYPE, "linkname": target}


def a_tar(folder: Path, *entries: Entry, mode: str = "w:gz") -> Path:
    path = folder / "given"
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, given in entries:
            info = tarfile.TarInfo(name)
            data = given.get("data", b"")
            info.size = len(data)
            for key, value in given.items():
                if key != "data":
                    setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))
    return path


def a_zip(folder: Path, *entries: tuple[str, bytes, int]) -> Path:
    path = folder / "given"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, data, mode in entries:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            zipped.writestr(info, data)
    return path


def bring(folder: Path, archive: Path, below: str = "") -> dict[str, str]:
    """What lies in the code's folder afterwards: names with their text, or where links lead."""
    copy, target = folder / "copy.tar", folder / "code"
    copy_archive(archive, copy, field="spec.code.archive", below=below)
    target.mkdir(exist_ok=True)
    unpack(copy, target)
    return {
        str(path.relative_to(target)): (
            f"-> {path.readlink()}" if path.is_symlink() else path.read_text()
        )
        for path in target.rglob("*")
        if path.is_symlink() or path.is_file()
    }


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_file_comes_in_whole(tmp_path: Path, mode: str) -> None:
    entries = [
        ("pkg", {"type": tarfile.DIRTYPE}),
        a_file("pkg/train.py"),
        a_link("pkg/latest.py", "train.py"),
        a_link("top.py", "pkg/../pkg/train.py"),
    ]
    assert bring(tmp_path, a_tar(tmp_path, *entries, mode=mode)) == {
        "pkg/train.py": "print(1)",
        "pkg/latest.py": "-> train.py",
        "top.py": "-> pkg/../pkg/train.py",
    }


def test_a_zip_file_comes_in_whole_with_its_links(tmp_path: Path) -> None:
    archive = a_zip(
        tmp_path,
        ("pkg/train.py", b"print(1)", stat.S_IFREG | 0o644),
        ("run.sh", b"exec true", stat.S_IFREG | 0o755),
        ("latest.py", b"pkg/train.py", stat.S_IFLNK | 0o777),
    )
    assert bring(tmp_path, archive) == {
        "pkg/train.py": "print(1)",
        "run.sh": "exec true",
        "latest.py": "-> pkg/train.py",
    }
    modes = {name: (tmp_path / "code" / name).stat().st_mode for name in ("run.sh", "pkg/train.py")}
    assert modes["run.sh"] & 0o111
    assert not modes["pkg/train.py"] & 0o111


def test_a_folder_of_it_becomes_the_code(tmp_path: Path) -> None:
    archive = a_tar(tmp_path, a_file("repo-1/src/a.py"), a_file("repo-1/setup.py"), a_file("srcs"))
    assert bring(tmp_path, archive, "repo-1/src") == {"a.py": "print(1)"}


def test_what_an_older_try_left_is_gone(tmp_path: Path) -> None:
    (tmp_path / "code" / "old").mkdir(parents=True)
    (tmp_path / "code" / "old" / "a.py").touch()
    (tmp_path / "code" / "b.py").symlink_to("old/a.py")
    assert set(bring(tmp_path, a_tar(tmp_path, a_file("new.py")))) == {"new.py"}


def test_owners_set_user_bits_and_times_stay_behind_so_that_zip_takes_all(tmp_path: Path) -> None:
    archive = a_tar(tmp_path, a_file("a", mode=0o6777, uid=7, uname="them", mtime=0))
    copy = tmp_path / "copy.tar"
    copy_archive(archive, copy, field="spec.code.archive", below="")
    with tarfile.open(copy) as tar:
        [info] = tar.getmembers()
    assert (info.mode, info.uid, info.uname, info.mtime) == (0o755, 0, "", 946_684_800)
    (tmp_path / "code").mkdir()
    unpack(copy, tmp_path / "code")
    with zipfile.ZipFile(tmp_path / "again.zip", "w") as zipped:
        zipped.write(tmp_path / "code" / "a")


HOSTILE: dict[str, list[Entry]] = {
    "a name that climbs out": [a_file("../evil.py")],
    "a name that climbs out in its middle": [a_file("a/../../evil.py")],
    "an absolute name": [a_file("/etc/cron.d/evil")],
    "a link that climbs out": [a_link("a", "../secret")],
    "a link that climbs out from below": [a_link("x/a", "../../secret")],
    "an absolute link": [a_link("a", "/etc/passwd")],
    "an empty link": [a_link("a", "")],
    "a file behind a link": [a_link("a", "b"), a_file("a/evil.py")],
    "a folder behind a link": [a_link("a", "b"), ("a/c", {"type": tarfile.DIRTYPE})],
    "a link that turns another one's dots outside": [
        a_link("x/y/up", "../.."),
        a_link("out", "x/y/up/../evil"),
    ],
    "a link in place of a folder": [a_file("a/b"), a_link("a", "/etc")],
    "a folder in place of a link": [a_link("a", "b"), ("a", {"type": tarfile.DIRTYPE})],
    "a file that is there twice": [a_file("a"), a_file("a", "other")],
    "a file below a file": [a_file("a"), a_file("a/b")],
    "a hard link": [a_file("a"), ("b", {"type": tarfile.LNKTYPE, "linkname": "a"})],
    "a hard link to outside": [("b", {"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"})],
    "a character device": [("null", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3})],
    "a block device": [("disk", {"type": tarfile.BLKTYPE})],
    "a pipe": [("pipe", {"type": tarfile.FIFOTYPE})],
    "a name beyond all bounds": [a_file("a/" * 600 + "b")],
    "a part of a name beyond all bounds": [a_file("a" * 300)],
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_tar_is_refused_and_nothing_is_unpacked(tmp_path: Path, case: str) -> None:
    archive = a_tar(tmp_path, *HOSTILE[case])
    with pytest.raises(CodeRefused, match=r"^spec\.code\.archive\.uri: "):
        bring(tmp_path, archive)
    assert not (tmp_path / "code").exists()


@pytest.mark.parametrize("case", [name for name in HOSTILE if "hard link" not in name])
def test_a_hostile_copy_on_the_storage_is_refused_too(tmp_path: Path, case: str) -> None:
    copy = a_tar(tmp_path, *HOSTILE[case], mode="w")
    (tmp_path / "code").mkdir()
    with pytest.raises(CodeRefused):
        unpack(copy, tmp_path / "code")
    assert not list((tmp_path / "code").iterdir())


@pytest.mark.parametrize(
    ("name", "data", "mode"),
    [
        ("../evil.py", b"", stat.S_IFREG | 0o644),
        ("/etc/evil", b"", stat.S_IFREG | 0o644),
        ("a", b"/etc/passwd", stat.S_IFLNK | 0o777),
        ("a", b"../../secret", stat.S_IFLNK | 0o777),
        ("null", b"", stat.S_IFCHR | 0o666),
        ("pipe", b"", stat.S_IFIFO | 0o666),
    ],
)
def test_a_hostile_zip_is_refused(tmp_path: Path, name: str, data: bytes, mode: int) -> None:
    with pytest.raises(CodeRefused, match=r"^spec\.code\.archive\.uri: "):
        bring(tmp_path, a_zip(tmp_path, (name, data, mode)))


def test_a_bomb_is_refused_before_it_goes_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = a_tar(tmp_path, a_file("zeros", "\0" * 3_000_000))
    assert archive.stat().st_size < 10_000
    copy = tmp_path / "copy.tar"
    gate = Gate("spec.code.archive.uri", max_bytes=1024**2)
    with tarfile.open(archive) as tar, pytest.raises(CodeRefused, match="MiB"):
        pack.write_copy(pack.read_tar(tar, "spec.code.archive.uri"), copy, gate)
    assert copy.stat().st_size < 20_000, "nothing of it was written"
    monkeypatch.setattr(pack, "MAX_MEMBERS", 3)
    with pytest.raises(CodeRefused, match="3 files"):
        bring(tmp_path, a_tar(tmp_path, *[a_file(f"f{n}") for n in range(4)]))


def test_a_size_in_a_header_is_enough_to_refuse(tmp_path: Path) -> None:
    zipped = a_zip(tmp_path, ("big", b"x" * 100, 0))
    gate = Gate("spec.code.archive.uri")
    with zipfile.ZipFile(zipped) as found:
        found.infolist()[0].file_size = 2 * pack.MAX_BYTES
        members = pack.read_zip(found, "spec.code.archive.uri")
        with pytest.raises(CodeRefused, match="MiB"):
            pack.write_copy(members, tmp_path / "copy.tar", gate)


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def turned(data: bytes) -> bytes:
    return data[:-40] + bytes(255 - byte for byte in data[-40:-8]) + data[-8:]


@pytest.mark.parametrize(
    "damage", [cut, turned, lambda _: b"<html>not found</html>", lambda _: b""]
)
@pytest.mark.parametrize("make", ["tar", "zip"])
def test_a_damaged_archive_is_refused(
    tmp_path: Path, damage: Callable[[bytes], bytes], make: str
) -> None:
    text = "".join(chr(33 + n * n % 90) for n in range(5000))
    archive = (
        a_tar(tmp_path, a_file("a.py", text))
        if make == "tar"
        else a_zip(tmp_path, ("a.py", text.encode(), 0))
    )
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(CodeRefused, match=r"^spec\.code\.archive\.uri: "):
        bring(tmp_path, archive)


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    archive = a_zip(tmp_path, ("a", b"x", 0))
    data = bytearray(archive.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(data)
    with pytest.raises(CodeRefused, match="encrypted"):
        bring(tmp_path, archive)


@pytest.mark.parametrize(("below", "field"), [("src", "path"), ("", "uri")])
def test_an_archive_without_a_file_there_is_refused(tmp_path: Path, below: str, field: str) -> None:
    archive = a_tar(tmp_path, ("source", {"type": tarfile.DIRTYPE}))
    with pytest.raises(CodeRefused, match=rf"^spec\.code\.archive\.{field}: .*holds no file"):
        bring(tmp_path, archive, below)


def test_a_gate_counts_what_passes_it() -> None:
    gate = Gate("field", max_bytes=10)
    gate.admit(Member("a", "file", 6))
    gate.admit(Member("b", "file", 4))
    with pytest.raises(CodeRefused):
        gate.admit(Member("c", "file", 1))
