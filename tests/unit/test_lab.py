"""The lab: what the demo needs is set up first and made once; how the tests are run."""

import json
import os
import pathlib
import subprocess

import pytest

from lab import images, parts, places, processes, testing


@pytest.fixture
def stamp(tmp_path, monkeypatch):
    path = tmp_path / "parts.json"
    monkeypatch.setattr(parts, "STAMP", path)
    return path


def test_parts_that_are_there_are_known(stamp) -> None:
    stamp.write_text(json.dumps({"key": parts.key(), "folders": ["erofs"]}))

    assert parts.gathered() == {"erofs"}


@pytest.mark.parametrize("text", [None, "", json.dumps({"key": "of before", "folders": ["erofs"]})])
def test_parts_of_another_version_are_gathered_anew(stamp, text: str | None) -> None:
    if text is not None:
        stamp.write_text(text)

    assert parts.gathered() == set()


def test_the_demo_needs_no_browser_no_kernel_and_no_peer() -> None:
    needed = {part.folder for part in parts.PARTS if part.demo}

    assert needed == {"containerd-2", "cri-proto", "docker-registry", "erofs"}


def test_after_the_demo_the_small_images_are_still_to_be_made() -> None:
    small, large = images.stamp(images.SMALL), images.stamp(images.LARGE)
    demo = {
        "lab/pause:1": {"stamp": images.alone(small)},
        "lab/large:1": {"stamp": large},
    }

    assert images.missing({}, images.DEMO) == {"pause", "large"}
    assert images.missing(demo, images.DEMO) == set()
    assert "small" in images.missing(demo, images.ALL)
    assert "large" not in images.missing(demo, images.ALL)
    everything = {name: {"stamp": small} for name in ("lab/pause:1", "lab/odd:1")}
    assert images.missing(demo | everything, images.DEMO) == set()
    assert "small" not in images.missing(demo | everything, images.ALL)


REPORT = f"""<testsuites><testsuite>
<testcase classname="tests.kube.test_client" name="test_slow[1]" time="12.25" />
<testcase classname="tests.kube.test_client" name="test_quick" time="0.5" />
<testcase classname="tests.kube.test_manifests" name="test_a" time="0.0">
  <skipped type="pytest.skip" message="{testing.NEEDS_API_SERVER}">why</skipped></testcase>
<testcase classname="tests.build.test_full" name="test_b" time="0.0">
  <skipped type="pytest.skip" message="needs root">why</skipped></testcase>
</testsuite></testsuites>"""


def test_the_summary_of_all_tests_names_the_slowest_and_counts_the_skipped_ones() -> None:
    assert testing.summary(testing.read(REPORT)).splitlines() == [
        "== the 4 slowest of 4 tests ==",
        "  12.2 s  kube.test_client.test_slow[1]",
        "   0.5 s  kube.test_client.test_quick",
        "   0.0 s  kube.test_manifests.test_a",
        "   0.0 s  build.test_full.test_b",
        "== 2 tests were skipped ==",
        f"     1    {testing.NEEDS_API_SERVER}",
        "     1    needs root",
        "1 of them need an API server. They run with `KUBEBUILDER_ASSETS=DIR make test`, where DIR "
        "has etcd and kube-apiserver (envtest's convention).",
    ]


def test_of_many_tests_the_ten_slowest_are_named() -> None:
    cases = [testing.Case(f"t{number}", number) for number in range(100)]

    assert testing.summary(cases).count(" s  t") == 10


@pytest.fixture
def checkout(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A checkout with its lab in a folder that only root may enter."""
    if os.geteuid() != 0:
        pytest.skip("needs root to run programs as another user")
    path = tmp_path / "root" / "uimgacc"
    (path / ".lab").mkdir(parents=True)
    (path.parent / "secret").touch()
    path.parent.chmod(0o700)
    monkeypatch.setattr(places, "CHECKOUT", path)
    monkeypatch.setattr(places, "LAB", path / ".lab")
    return path


def test_another_user_can_read_a_checkout_below_a_folder_of_root(checkout: pathlib.Path) -> None:
    (checkout / "file").write_text("content")
    script = f"id -u; pwd; cat file; ls {checkout.parent}"
    command = [*processes.as_user(65532), "sh", "-c", script]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True)

    assert (done.stdout, done.stderr) == (f"65532\n{checkout}\ncontentuimgacc\n", "")
    assert (checkout.parent / "secret").exists()


def test_a_checkout_that_other_users_cannot_read_is_refused(checkout: pathlib.Path) -> None:
    checkout.chmod(0o700)

    with pytest.raises(processes.LabError, match=r"chmod -R o\+rX"):
        processes.as_user(65532)
