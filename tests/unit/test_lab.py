"""The lab: what the demo needs is set up first and made once; how the tests are run."""

import json
import os
import pathlib
import socket
import subprocess
from collections.abc import Iterator

import pytest

from lab import places, processes, testing
from lab.image import rootfs
from lab.parts import debian
from lab.samples import images


@pytest.fixture
def stamp(tmp_path, monkeypatch):
    path = tmp_path / "parts.json"
    monkeypatch.setattr(debian, "STAMP", path)
    return path


def test_parts_that_are_there_are_known(stamp) -> None:
    stamp.write_text(json.dumps({"key": debian.key(), "folders": ["erofs"]}))

    assert debian.gathered() == {"erofs"}


@pytest.mark.parametrize("text", [None, "", json.dumps({"key": "of before", "folders": ["erofs"]})])
def test_parts_of_another_version_are_gathered_anew(stamp, text: str | None) -> None:
    if text is not None:
        stamp.write_text(text)

    assert debian.gathered() == set()


@pytest.mark.parametrize(
    ("chosen", "own", "mirror"),
    [
        ({}, "http://d/debian-security/ Debian-Security\n", "http://d/debian-security"),
        ({}, "http://d/debian/ Debian\n", "http://d/debian-security"),
        (
            {"UIMGACC_DEBIAN_MIRROR": "http://m/debian/"},
            "http://d/debian-security/ Debian-Security\n",
            "http://m/debian-security",
        ),
        ({"UIMGACC_DEBIAN_SECURITY_MIRROR": "http://s/of-a-day/"}, "", "http://s/of-a-day"),
        ({"UIMGACC_DEBIAN_SECURITY_MIRROR": "none"}, "", None),
    ],
)
def test_the_image_has_what_debian_mends_between_point_releases(
    tmp_path, monkeypatch, chosen: dict[str, str], own: str, mirror: str | None
) -> None:
    commands: list[list[str]] = []
    for name in ("UIMGACC_DEBIAN_MIRROR", "UIMGACC_DEBIAN_SECURITY_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(debian, "output", lambda _command: own)
    monkeypatch.setattr(debian, "own_mirror", lambda: "http://d/debian/")
    monkeypatch.setattr(debian, "run", lambda command, *_: commands.append(command) or "")
    (tmp_path / "sources.list").write_text("deb http://d/debian trixie main\n")

    rootfs.add_security(["apt-get"], tmp_path)

    lines = (tmp_path / "sources.list").read_text().splitlines()[1:]
    assert [line.split()[-3:] for line in lines] == (
        [[mirror, "trixie-security", "main"]] if mirror else []
    )
    assert commands == ([["apt-get", "update"]] if mirror else [])


def test_the_demo_needs_no_browser_no_kernel_and_no_peer() -> None:
    needed = {part.folder for part in debian.PARTS if part.demo}

    assert needed == {"containerd-2", "cri-proto", "docker-registry", "erofs"}


def test_images_are_made_anew_by_another_text_not_by_another_import(tmp_path, monkeypatch) -> None:
    source = tmp_path / "lab/some.py"
    source.parent.mkdir()
    monkeypatch.setattr(places, "CHECKOUT", tmp_path)
    stamps = []
    for text in ("from lab import tars\nA = 1\n", "from lab.room import tars\nA = 1\n", "A = 2\n"):
        source.write_text(text)
        stamps.append(images.stamp(("some.py",)))

    assert stamps[0] == stamps[1] != stamps[2]


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


def test_each_folder_of_tests_is_in_one_run() -> None:
    folders = [folder for stream in testing.STREAMS.values() for folder in stream]

    assert len(folders) == len(set(folders))
    for folder in folders:
        assert any((testing.TESTS / folder).rglob("test_*.py"))


def test_each_module_is_in_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing, "PARTS", {"all": 3})
    folders = [path.name for path in testing.TESTS.iterdir() if any(path.rglob("test_*.py"))]

    shares = testing.shares({"all": folders, "one folder": ["unit"]})

    assert list(shares) == ["all (1 of 3)", "all (2 of 3)", "all (3 of 3)", "one folder"]
    assert shares.pop("one folder") == [str(testing.TESTS / "unit")]
    tested = sorted(path for share in shares.values() for path in share)
    there = {str(path) for path in testing.TESTS.rglob("test_*.py")}
    assert tested == sorted(set(tested))
    assert {pathlib.Path(path).parent.name for path in there - set(tested)} == {testing.INSIDE}


def test_a_checkout_below_a_folder_of_that_name_is_tested_once(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / testing.INSIDE / "tests" / "unit" / "test_it.py"
    module.parent.mkdir(parents=True)
    module.touch()
    monkeypatch.setattr(testing, "TESTS", module.parents[1])
    monkeypatch.setattr(testing, "PARTS", {"all": 2})

    assert list(testing.shares({"all": ["unit"]}).values()) == [[str(module)]]


def test_runs_begin_in_their_order_when_there_is_room(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for one, each has ended before the next one is made."""
    monkeypatch.setattr(testing, "_TOGETHER", 1)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    (tmp_path / "pytest.ini").touch()
    (tmp_path / "test_it.py").write_text(SOUND)
    made: list[testing.Run] = []

    def making() -> Iterator[testing.Run]:
        for name in ("first", "second"):
            assert all(run.status() is not None for run in made)
            made.append(testing.Run(name, [str(tmp_path)], tmp_path / name))
            yield made[-1]

    assert testing.finish(making()) == made
    assert [run.status() for run in made] == [0, 0]


def test_a_free_port_is_not_one_of_those_of_connections() -> None:
    with socket.create_server(("127.0.0.1", processes.free_port())) as server:
        assert 20_000 <= server.getsockname()[1] < 32_768


def test_of_many_tests_the_ten_slowest_are_named() -> None:
    cases = [testing.Case(f"t{number}", number) for number in range(100)]

    assert testing.summary(cases).count(" s  t") == 10


SUITE = """
import pathlib

import pytest

HERE = pathlib.Path(__file__).parent


def second_time(name):
    if (HERE / name).exists():
        return True
    (HERE / name).touch()
    return False


def test_sound():
    pass


@pytest.mark.parametrize("case", ["a[b]", "c d"])
def test_unstable(case):
    assert second_time("unstable" + case), "the first time"


@pytest.fixture
def fixture():
    yield
    assert second_time("fixture"), "at its end"


def test_unstable_in_its_fixture(fixture):
    pass
"""
"""Three tests that fail the first time, and pass alone."""

MODULE = """
import pathlib

import pytest

FIRST = pathlib.Path(__file__).parent / "first"


@pytest.fixture(scope="module", autouse=True)
def of_module():
    is_first = not FIRST.exists()
    FIRST.touch()
    yield
    assert not is_first, "at the end of the module"


def test_skipped():
    pytest.skip("each time")
"""
"""The end of a module that fails the first time, after a test that is skipped."""

FAILING = "\n\ndef test_broken():\n    raise OSError"
SKIPPED = """

def test_skipped_later():
    if second_time("skipped"):
        pytest.skip("not now")
    raise OSError
"""
MANY = """

@pytest.mark.parametrize("case", range(3))
def test_also_unstable(case):
    assert second_time(f"also{case}")
"""


class Suites:
    """Some streams of tests in a checkout of their own."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        (folder / "pytest.ini").touch()

    def repeated(self, *suites: str) -> list[testing.Case] | None:
        """What comes of running these side by side."""
        runs = []
        for number, suite in enumerate(suites):
            file = self.folder / f"stream{number}/test_it{number}.py"
            file.parent.mkdir()
            file.write_text(suite)
            runs.append(testing.Run(str(number), [str(file.parent)], self.folder / str(number)))
        testing.finish(runs)
        return testing.repeat(runs, self.folder / "again")


@pytest.fixture
def suites(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Suites:
    monkeypatch.setattr(testing, "TESTS", tmp_path / "tests")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # a start takes half as long
    return Suites(tmp_path)


SOUND = "def test_sound():\n    pass\n"


def test_without_a_failure_nothing_is_run_again(suites: Suites) -> None:
    assert suites.repeated(SOUND) == []
    assert not (suites.folder / "again").exists()


def test_what_passes_alone_is_unstable_and_named_with_its_first_failure(
    suites: Suites, capsys: pytest.CaptureFixture[str]
) -> None:
    unstable = suites.repeated(SUITE, SOUND, MODULE)

    assert unstable is not None
    assert [case.name for case in unstable] == [
        "stream0.test_it0.test_unstable[a[b]]",
        "stream0.test_it0.test_unstable[c d]",
        "stream0.test_it0.test_unstable_in_its_fixture",
        "stream2.test_it2.test_skipped",
    ]
    assert "3 passed" in capsys.readouterr().out
    summary = testing.summary([], unstable)
    assert "== 4 unstable: failed first, passed alone ==" in summary
    assert summary.count("AssertionError: the first time") == 2
    assert summary.count("AssertionError: at its end") == 1
    assert summary.count("AssertionError: at the end of the module") == 1


@pytest.mark.parametrize(
    ("more", "repeated"),
    [
        pytest.param(FAILING, True, id="fails again"),
        pytest.param(SKIPPED, True, id="skipped the second time"),
        pytest.param(MANY, False, id="too many"),
        pytest.param("\n\ndef broken(:", False, id="cannot be read"),
        pytest.param("\n\ndef test_end():\n    pytest.exit('now')", False, id="ended early"),
        pytest.param(
            "\n\ndef test_kill():\n    import os\n    os.kill(os.getpid(), 9)", False, id="killed"
        ),
    ],
)
def test_a_failure_stays_one(suites: Suites, more: str, *, repeated: bool) -> None:
    assert suites.repeated(SUITE + more) is None
    assert (suites.folder / "again").exists() == repeated


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
