"""What a snapshot occupies on this disk, counted as containerd does (fs.DiskUsage).

Blocks, not lengths, and a file with several names once.
"""

import os


def count(folder: str) -> tuple[int, int]:
    """Bytes and inodes of a folder and all below it; files that vanish meanwhile are left out."""
    size = inodes = 0
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        try:
            entries = list(os.scandir(waiting[-1]))
            own = os.lstat(waiting.pop())
        except OSError:
            del waiting[-1:]
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
