"""How much memory a process may use."""

import pathlib
import resource

import pytest

from agent.kits.processes import memory


@pytest.fixture(autouse=True)
def unlimited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)


def machine(root: pathlib.Path, cgroup: str, **files: str) -> tuple[pathlib.Path, pathlib.Path]:
    """A /proc of a machine with 16 GiB, and its cgroups; files by their path, `__` for `/`."""
    proc, cgroups = root / "proc", root / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal:       16777216 kB\nMemFree:  1 kB\n")
    (proc / "self/cgroup").write_text(cgroup)
    for name, text in files.items():
        path = cgroups / name.replace("__", "/").replace("_", ".", 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return proc, cgroups


def test_without_a_limit_it_is_the_machine_s(tmp_path) -> None:
    assert memory.limit(*machine(tmp_path, "0::/\n", memory_max="max\n")) == 16 << 30


def test_it_is_the_smallest_limit_of_the_cgroups_above(tmp_path) -> None:
    made = machine(
        tmp_path, "0::/pod/build\n", pod__memory_max="2147483648", pod__build__memory_max="max"
    )

    assert memory.limit(*made) == 2 << 30


def test_in_a_container_the_limit_is_at_the_root(tmp_path) -> None:
    made = machine(tmp_path, "0::/../../kubepods/x\n", memory_max="1073741824")

    assert memory.limit(*made) == 1 << 30


def test_version_1_has_a_folder_of_its_own(tmp_path) -> None:
    proc, cgroups = machine(tmp_path, "5:cpu,memory:/a\n")
    (cgroups / "memory/a").mkdir(parents=True)
    (cgroups / "memory/a/memory.limit_in_bytes").write_text("536870912\n")

    assert memory.limit(proc, cgroups) == 512 << 20


def test_a_limit_of_the_process_counts(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1 << 20, 1 << 20))

    assert memory.limit(*machine(tmp_path, "")) == 1 << 20
