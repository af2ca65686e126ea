"""A node on a real NFS export in an emulated machine, and SELinux where that is active."""

import pytest

from lab.kernels import selinux
from tests.guest.inside.conftest import client, node, registry, server, store

__all__ = ["client", "node", "registry", "server", "store"]


@pytest.fixture(scope="session")
def policy() -> None:
    """The policy is loaded; it refuses nothing before a test has it do so."""
    selinux.load()
