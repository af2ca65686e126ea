"""What needs no server; the rest runs in guests (tests/guest)."""

import errno
import pathlib
import socket

import pytest

from agent.mounts import nfs_worker


@pytest.fixture
def place(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "store"


def test_a_place_is_told_apart(place) -> None:
    found = [nfs_worker.survey(str(place))]
    place.mkdir()
    found.append(nfs_worker.survey(str(place)))
    (place / "store.json").touch()
    found.append(nfs_worker.survey(str(place)))
    found.append(nfs_worker.survey(str(place / "store.json")))
    (place.parent / "link").symlink_to("nowhere")
    found.append(nfs_worker.survey(str(place.parent / "link")))

    assert found == [
        ("", "", False),
        ("folder", "", True),
        ("folder", "", False),
        ("file", "", False),
        ("link", "nowhere", False),
    ]


def test_a_mount_is_not_looked_into() -> None:
    assert nfs_worker.survey("/proc") == ("folder", "", False)


def test_a_link_takes_the_place_of_nothing_an_empty_folder_or_another_link(place) -> None:
    nfs_worker.link(str(place), "a")
    nfs_worker.link(str(place), "b")
    place.unlink()
    place.mkdir()
    nfs_worker.link(str(place), "c")

    assert str(place.readlink()) == "c"


def test_a_folder_with_something_in_it_stays(place) -> None:
    (place / "something").mkdir(parents=True)
    with pytest.raises(OSError, match="not empty"):
        nfs_worker.link(str(place), "a")

    assert (place / "something").exists()


def test_a_draft_that_a_killed_worker_left_is_no_obstacle(place) -> None:
    place.with_name("store.new").symlink_to("old")
    nfs_worker.link(str(place), "a")

    assert str(place.readlink()) == "a"


def test_a_server_without_an_address_is_told() -> None:
    with pytest.raises(OSError, match="no-such-server") as caught:
        nfs_worker.resolve("no-such-server.invalid")

    assert caught.value.errno == errno.EHOSTUNREACH


def test_each_address_of_a_server_is_told_once(monkeypatch) -> None:
    """In the order of the resolver, which knows what this machine reaches best."""
    found = [(0, 0, 0, "", (address, 0)) for address in ("::1", "10.0.0.2", "::1", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)

    assert nfs_worker.resolve("nfs.example") == ["::1", "10.0.0.2", "10.0.0.1"]


def test_a_mount_that_fails_leaves_no_folder(tmp_path) -> None:
    target = tmp_path / "mounts/1"
    with pytest.raises(OSError):  # noqa: PT011 - which one depends on the kernel and on who asks
        nfs_worker.mount("x:/a", "127.0.0.1", str(target), [("no-such-file-system", "hard")])

    assert not target.exists()


def test_without_a_mount_there_is_no_read_ahead(tmp_path) -> None:
    with pytest.raises(OSError, match="nothing is mounted there") as caught:
        nfs_worker.read_ahead(str(tmp_path), 1024)

    assert caught.value.errno == errno.ENOENT
