"""The containerd that UIMGACC_CONTAINERD names, for tests of what Debian's do not have."""

import pytest

from agent.setup.config import containerd_binary
from lab import places


def _has_layer_caches() -> bool:
    named = places.CONTAINERDS.get("named")
    if named is None:
        return False
    release = containerd_binary.release_of(str(named / "containerd"))
    return (release.major, release.minor) >= (2, 4)


needs_layer_caches = pytest.mark.skipif(
    not _has_layer_caches(), reason="UIMGACC_CONTAINERD names no containerd of 2.4 or newer"
)
