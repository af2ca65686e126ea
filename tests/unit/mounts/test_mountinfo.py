"""Lines as the kernel writes them."""

import os

from agent.mounts import mountinfo

TABLE = r"""36 35 98:0 /mnt1 /mnt\0402 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
90 29 0:41 / /r/layers/abc ro,relatime shared:5 - erofs /store/a\134b.erofs ro,user_xattr
"""


def test_fields_and_escapes() -> None:
    first, second = mountinfo.parse(TABLE)

    assert (first.root, first.target, first.kind) == ("/mnt1", "/mnt 2", "ext3")
    assert (second.device, second.source) == (os.makedev(0, 41), r"/store/a\b.erofs")
    assert second.options == "ro,user_xattr"
    assert (first.id_, first.parent) == (36, 35)
    assert (first.group, first.master) == (0, 1)
    assert (second.group, second.master) == (5, 0)


def test_the_table_of_this_process_has_a_root() -> None:
    assert "/" in {entry.target for entry in mountinfo.read()}


def test_what_is_no_loop_device_backs_itself() -> None:
    assert mountinfo.backing_file("/dev/sda1") == "/dev/sda1"
    assert mountinfo.backing_file("/store/x.erofs") == "/store/x.erofs"
