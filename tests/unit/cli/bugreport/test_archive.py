"""The archive of a bug report: bounds, its list of files, for its owner only."""

import json
import pathlib
import tarfile

import pytest

from agent.cli.bugreport import archive


def content(path: pathlib.Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {
            member.name.partition("/")[2]: tar.extractfile(member).read()  # type: ignore[union-attr]
            for member in tar
        }


def test_it_lists_what_it_has_and_what_it_has_not(tmp_path) -> None:
    made = archive.Archive("report")
    made.add_text("logs/a.log", b"one line\n")
    made.add_object("objects/x.json", {"a": 1})
    made.miss("logs/b.log", "403 Forbidden with password=hunter2x9")
    path = tmp_path / "r.tar.gz"

    made.write(path, about={"uimgacc": "1"})

    files = content(path)
    manifest = json.loads(files["manifest.json"])
    assert set(files) == {"manifest.json", "logs/a.log", "objects/x.json"}
    assert [each["name"] for each in manifest["files"]] == ["logs/a.log", "objects/x.json"]
    assert manifest["missing"] == {"logs/b.log": "403 Forbidden with password=REDACTED"}
    assert path.stat().st_mode & 0o777 == 0o600


def test_of_a_long_log_the_end_is_kept(tmp_path) -> None:
    made = archive.Archive("report")
    made.add_text("a.log", b"begin " + b"x " * archive.FILE_LIMIT + b"end")
    made.write(tmp_path / "r.tar.gz", about={})

    files = content(tmp_path / "r.tar.gz")

    assert files["a.log"].endswith(b"end")
    assert len(files["a.log"]) <= archive.FILE_LIMIT
    (listed,) = json.loads(files["manifest.json"])["files"]
    assert listed["wasBytes"] > listed["bytes"]


def test_its_bytes_are_bounded_and_what_found_no_room_is_said(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(archive, "TOTAL_LIMIT", 1000)
    made = archive.Archive("report")
    for number in range(20):
        made.add_text(f"{number}.log", b"word " * 30)
    made.add_object("x.json", ["word"] * 500)

    assert made.size <= 1000
    assert "has no room" in made.missing["19.log"]
    assert "more than there is room for" in made.missing["x.json"]


def test_nothing_is_overwritten(tmp_path) -> None:
    path = tmp_path / "r.tar.gz"
    path.write_text("mine")

    with pytest.raises(FileExistsError):
        archive.Archive("report").write(path, about={})

    assert path.read_text() == "mine"
