"""Where a layer file, which is an EROFS image, says what it is (fs/erofs/erofs_fs.h).

Nothing is imported: the children that mount layers use it.
"""

OFFSET = 1024
"""Where the superblock begins in the file, in bytes."""

MAGIC = b"\xe2\xe1\xf5\xe0"
"""Its first bytes."""

BLOCK = 4096
"""Bytes of a block of layer files."""

KERNEL_MINIMUM = "5.15"
"""The oldest kernel that is supported. A layer file asks for 5.13 (EROFS with lz4, big pclusters),
with large files that do not compress for 5.15 (chunks); its loop device for 5.8 (LOOP_CONFIGURE).
"""

KERNEL_FEATURES = frozenset({"big_pcluster", "chunked_file"})
"""What makes it so, by the names that EROFS itself has for it in /sys/fs/erofs/features."""
