"""Mounts, a whole node and `doctor` on the kernels that nodes have."""

import pytest

from lab.kernels import packages, selinux

pytestmark = [pytest.mark.guest, pytest.mark.timeout(2500)]

SUPPORTED = tuple(kernel.name for kernel in packages.KERNELS if kernel.name != "5.10")
MOUNTS = (
    "tests/unit/mounts/devices/test_layer_files.py",
    "tests/unit/mounts/devices/test_layer_mounting.py",
    "tests/unit/mounts/test_layer_mounts.py",
    "tests/unit/mounts/devices/test_loops.py",
    "tests/unit/mounts/test_page_cache.py",
    "tests/unit/mounts/test_teardown.py",
    "tests/unit/setup/node/test_user_namespaces.py",
)


@pytest.mark.parametrize("name", SUPPORTED)
def test_layers_are_mounted_switched_and_taken_over(name, run) -> None:
    run(name, [*MOUNTS, "tests/kernels/inside/test_doctor.py"])


@pytest.mark.parametrize("name", SUPPORTED)
def test_a_node_serves_pods(name, run) -> None:
    run(name, ["tests/kernels/inside/test_node.py"])


def test_a_kernel_that_is_too_old_is_refused(run) -> None:
    run("5.10", ["tests/kernels/inside/test_refusal.py"])


@pytest.mark.parametrize("name", ["6.1", "6.12"])
def test_containers_may_read_layers_where_selinux_enforces(name, run) -> None:
    tests = [f"tests/kernels/inside/{file}" for file in ("test_labels.py", "test_labelled_node.py")]

    run(name, tests, told="lsm=selinux selinux=1", prepare=selinux.compile_policy)
