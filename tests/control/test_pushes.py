"""A registry's own notification of a push has the cache built again, and by nothing else."""

import pathlib
from collections.abc import Iterator

import pytest

from lab import processes, services
from tests.control import conftest
from tests.control.test_ucloud import UHub
from tests.kube import apis

pytestmark = pytest.mark.timeout(300)

TOKEN = "a-token-of-registries-12"


@pytest.fixture
def port() -> int:
    return processes.free_port()


@pytest.fixture
def registry(tmp_path: pathlib.Path, port: int) -> Iterator[UHub]:
    """A registry that notifies the controller, and retries soon while that is not there."""
    endpoint = {
        "name": "uimgacc",
        "url": f"http://127.0.0.1:{port}/push",
        "headers": {"Authorization": [f"Bearer {TOKEN}"]},
        "timeout": "3s",
        "threshold": 1,
        "backoff": "1s",
    }
    with services.Registry(
        tmp_path / "registry", storage=tmp_path / "storage", notified=[endpoint]
    ) as running:
        yield UHub(running)


def test_a_push_to_a_tag_has_its_cache_built_again(
    plane: conftest.Plane, registry: UHub, port: int, folder: pathlib.Path
) -> None:
    plane.server = registry.server
    tokens = folder / "tokens"
    tokens.write_text(TOKEN)
    tokens.chmod(0o644)
    # By itself no tag is looked up.
    controller = plane.controller(
        "--tag-seconds=0", f"--push-listen=127.0.0.1:{port}", f"--push-tokens={tokens}"
    )
    first = registry.push("team/app", b"1")
    other = registry.push("team/other", b"1")
    key, second_key = plane.apply("tools", "team/app:1"), plane.apply("other", "team/other:1")

    def has(pushed: str) -> bool:
        status = plane.status(key)
        held = [each["digest"] for each in status.get("images", ())]
        return status.get("phase") == "Ready" and held == [pushed]

    plane.wait(second_key, "Ready")
    apis.wait_until(lambda: has(first.digest), seconds=60)
    second = registry.push("team/app", b"2")
    try:
        apis.wait_until(lambda: has(second.digest), seconds=90)
        apis.wait_until(lambda: "TagMoved" in plane.events(key), seconds=30)
    except AssertionError:
        raise AssertionError(f"{plane.status(key)}\n{plane.said()}") from None

    assert [each["digest"] for each in plane.status(second_key)["images"]] == [other.digest]
    pushed = [line for line in controller.lines() if line["message"] == "pushed"]
    assert {each["sender"] for each in pushed} == {"distribution"}
    assert TOKEN not in controller.log.read_text()
