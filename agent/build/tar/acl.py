"""POSIX ACLs as the kernel stores them in xattrs, and what it does to them; pure.

Sources: Linux, fs/posix_acl.c (posix_acl_valid, posix_acl_equiv_mode, posix_acl_chmod,
posix_acl_create) and include/uapi/linux/posix_acl_xattr.h.
"""

import struct
from collections.abc import Sequence

ACCESS = b"system.posix_acl_access"
DEFAULT = b"system.posix_acl_default"

_VERSION = struct.pack("<I", 2)
_ENTRY = struct.Struct("<HHI")
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 1, 2, 4, 8, 16, 32
_NO_ID = 0xFFFFFFFF

_Entry = tuple[int, int, int]
"""Tag, permissions, and the user or group."""


class UnknownVersionError(ValueError):
    """An ACL in another version of the format; the kernel does not support it."""


def parse(value: bytes) -> list[_Entry]:
    """The entries of an ACL, none for an empty one; ValueError where the kernel refuses it."""
    if not value:
        return []
    if len(value) < 4:
        raise ValueError("it is cut off")
    if value[:4] != _VERSION:
        raise UnknownVersionError("it is of an unknown version")
    if (len(value) - 4) % _ENTRY.size:
        raise ValueError("it is cut off")
    entries = [
        (tag, permissions, number if tag in (_USER, _GROUP) else _NO_ID)
        for tag, permissions, number in _ENTRY.iter_unpack(value[4:])
    ]
    if entries:
        _require_valid(entries)
    return entries


def encode(entries: Sequence[_Entry]) -> bytes:
    """The value of an xattr with these entries."""
    return _VERSION + b"".join(_ENTRY.pack(*entry) for entry in entries)


def with_mode(value: bytes, mode: int) -> bytes | None:
    """An access ACL after chmod; None where the mode says all of it."""
    entries = parse(value)
    tags = {tag for tag, _, _ in entries}
    if tags <= {_USER_OBJ, _GROUP_OBJ, _OTHER}:
        return None
    group = _MASK if _MASK in tags else _GROUP_OBJ
    shifts = {_USER_OBJ: 6, group: 3, _OTHER: 0}
    return encode(
        [
            (tag, mode >> shifts[tag] & 7 if tag in shifts else permissions, number)
            for tag, permissions, number in entries
        ]
    )


def _require_valid(entries: Sequence[_Entry]) -> None:
    """The order of tags is fixed; entries for users or groups need a mask."""
    tags = [tag for tag, _, _ in entries]
    named = [tag for tag in tags if tag in (_USER, _GROUP)]
    order = [_USER_OBJ, *[_USER] * tags.count(_USER), _GROUP_OBJ, *[_GROUP] * tags.count(_GROUP)]
    if _MASK in tags or named:
        order.append(_MASK)
    if tags != [*order, _OTHER]:
        raise ValueError("its entries are incomplete, or in another order than the kernel takes")
    if any(permissions & ~7 for _, permissions, _ in entries):
        raise ValueError("it has unknown permissions")
    if any(number == _NO_ID for tag, _, number in entries if tag in (_USER, _GROUP)):
        raise ValueError("it names no user or group")
