"""The control files of device drivers: /dev/loop-control, /dev/mapper/control.

Standard library only: it runs in children without site-packages.
"""

import contextlib
import os
import stat
from collections.abc import Iterator


@contextlib.contextmanager
def opened(path: str, number: int) -> Iterator[int]:
    """Open a control file; where a container's /dev does not have it, it is made.

    `number` is that of the device. Raises OSError.
    """
    if not os.path.exists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mknod(path, stat.S_IFCHR | 0o600, number)
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
