"""What becomes of the xattrs in a tar when containerd sets them on a node's file system; pure.

Linux drops some (containerd goes on without them), refuses others (containerd then refuses the
layer), and changes ACLs: chmod, which containerd calls last, writes the mode into them, and
what is made in a directory with a default ACL gets an access ACL by that.

Sources: containerd pkg/archive/tar.go (createTarFile); Linux, fs/xattr.c, fs/ext4/xattr.c and
security/commoncap.c.
"""

import struct
from collections.abc import Mapping, Sequence

from agent.build.tar import acl, headers

CAPABILITY = b"security.capability"

_MAX_NAME = 255
_MAX_VALUE = 65536
_EXT4_BLOCK = 4096 - 32 - 4
"""What of a block ext4 has for xattrs: all but a header and the mark of the end."""

_EXT4_INODE = 96
"""About what it has in the inode itself."""

_REVISIONS = {20: 0x02000000, 24: 0x03000000}
"""Of the capability formats with this number of bytes."""


def settled(
    kind: bytes,
    mode: int,
    own: Sequence[tuple[bytes, bytes]],
    before: Mapping[bytes, bytes],
) -> list[tuple[bytes, bytes]]:
    """The xattrs of an entry after its own were set and its mode was; raise LayerTarError.

    `before` are those that it has when it is made, or had when another entry named it.
    """
    if not own and not before:
        return []
    result = dict(before)
    for name, value in own:
        if not _is_set(kind, name, value):
            continue
        if name in (acl.ACCESS, acl.DEFAULT):
            entries = acl.parse(value)
            result.pop(name, None)
            if entries:
                result[name] = acl.encode(entries)
        else:
            result[name] = value
    access = result.pop(acl.ACCESS, None)
    if access is not None and (changed := acl.with_mode(access, mode)) is not None:
        result[acl.ACCESS] = changed
    _require_room(result)
    return list(result.items())


def inherited(kind: bytes, default: bytes | None) -> dict[bytes, bytes]:
    """What something new gets from the default ACL of its directory."""
    if default is None or kind == b"2":
        return {}
    access = {acl.ACCESS: default}
    return {**access, acl.DEFAULT: default} if kind == b"5" else access


def after_chown(pairs: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """What a file keeps of its xattrs when its owner is set: all but capabilities."""
    return {name: value for name, value in pairs if name != CAPABILITY}


def _is_set(kind: bytes, name: bytes, value: bytes) -> bool:
    """Whether Linux sets an xattr; LayerTarError where containerd does not go on without."""
    if name.startswith(b"trusted."):
        return False
    if not 0 < len(name) <= _MAX_NAME:
        raise headers.LayerTarError(f"an xattr whose name has {len(name)} bytes")
    if len(value) > _MAX_VALUE:
        raise headers.LayerTarError(f"the xattr {_show(name)} has {len(value)} bytes")
    # A hard link's belong to what it names.
    if name.startswith(b"user.") and kind not in (b"0", b"1", b"5"):
        return False
    if name in (acl.ACCESS, acl.DEFAULT):
        return _is_acl_set(kind, name, value)
    if name in (b"user.", b"security."):
        raise headers.LayerTarError(f"an xattr that is called {_show(name)} and no more")
    if name == CAPABILITY and value:
        _require_capability(value)
    return name.startswith((b"user.", b"security."))


def _is_acl_set(kind: bytes, name: bytes, value: bytes) -> bool:
    try:
        entries = acl.parse(value)
    except acl.UnknownVersionError:
        return False
    except ValueError as error:
        raise headers.LayerTarError(f"the xattr {_show(name)} is no ACL: {error}") from error
    if kind == b"2":
        return False
    if name == acl.DEFAULT and kind != b"5":
        if entries:
            raise headers.LayerTarError("a default ACL on something that is no directory")
        return False
    return True


def _require_capability(value: bytes) -> None:
    revision = struct.unpack_from("<I", value)[0] & ~1 if len(value) in _REVISIONS else None
    if revision is None or revision != _REVISIONS[len(value)]:
        raise headers.LayerTarError("the xattr security.capability is in no form that Linux knows")


def _require_room(result: Mapping[bytes, bytes]) -> None:
    """ext4, on which most nodes have containerd's files, keeps an inode's xattrs in one block."""
    sizes = [
        16 + _padded(len(name.partition(b".")[2])) + _padded(len(value))
        for name, value in result.items()
    ]
    if max(sizes, default=0) > _EXT4_BLOCK or sum(sizes) > _EXT4_BLOCK + _EXT4_INODE:
        raise headers.LayerTarError(
            f"{sum(sizes)} bytes of xattrs on one file; ext4, as most nodes have it, takes 4 KiB"
        )


def _padded(size: int) -> int:
    return (size + 3) // 4 * 4


def _show(name: bytes) -> str:
    return name.decode(errors="backslashreplace")[:100]
