"""Whether this kernel's EROFS reads what layer files are made of.

By what the kernel says where it does (/sys/fs/erofs/features, since 5.17, and in distributions'
older kernels with a newer EROFS), else by its release. Standard library only.
"""

import os
import re
from collections.abc import Collection

from agent.model.erofs import superblock

_FEATURES = "/sys/fs/erofs/features"
_RELEASE = re.compile(r"(\d+)\.(\d+)")


def problem() -> str:
    """What this kernel lacks, as a sentence; "" where it lacks nothing."""
    try:
        features = os.listdir(_FEATURES)
    except OSError:
        features = []
    return judge(os.uname().release, features)


def judge(release: str, features: Collection[str]) -> str:
    """The same of a kernel by its release and the features that it names; empty: it names none."""
    if features:
        missing = sorted(superblock.KERNEL_FEATURES - set(features))
        what = f"its EROFS lacks {', '.join(missing)}" if missing else ""
    else:
        too_old = _number(release) < _number(superblock.KERNEL_MINIMUM)
        what = "its EROFS cannot read all layers" if too_old else ""
    return f"kernel {release} is too old: {what}" if what else ""


def _number(release: str) -> tuple[int, int]:
    found = _RELEASE.match(release)
    # Of a name that is none, nothing is known against it.
    return (int(found[1]), int(found[2])) if found else (1 << 16, 0)
