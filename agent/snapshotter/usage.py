"""What a snapshot occupies on this disk, counted as containerd does (fs.DiskUsage).

Blocks, not lengths, and a file with several names once.
"""

import os
import threading


def count(folder: str, stopped: threading.Event) -> tuple[int, int]:
    """Bytes and inodes of a folder and all below it; files that vanish meanwhile are left out.

    Gives up early, with what it has, once `stopped` is set.
    """
    size = inodes = 0
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting and not stopped.is_set():
        path = waiting.pop()
        try:
            own = os.lstat(path)
            with os.scandir(path) as listing:
                entries = list(listing)
        except OSError:
            continue
        size, inodes = size + own.st_blocks * 512, inodes + 1
        for entry in entries:
            try:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                    continue
                stat = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if stat.st_nlink > 1:
                if (stat.st_dev, stat.st_ino) in seen:
                    continue
                seen.add((stat.st_dev, stat.st_ino))
            size, inodes = size + stat.st_blocks * 512, inodes + 1
    return size, inodes
