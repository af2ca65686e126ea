"""The label of a mount, as the kernel shows it. What it does is tested where SELinux is active
(tests/kernels)."""

import dataclasses

import pytest

from agent.mounts import mountinfo
from agent.mounts.devices import layer_labels

ENTRY = next(
    mountinfo.parse("1 2 0:3 / /layers/one ro - erofs /dev/loop3 ro,seclabel,user_xattr,acl")
)


@pytest.mark.parametrize(
    ("options", "label"),
    [
        ("ro,seclabel,user_xattr", ""),
        ("ro,context=system_u:object_r:container_ro_file_t:s0,acl", "container_ro_file_t:s0"),
        (
            'ro,context="system_u:object_r:container_file_t:s0:c1,c2",acl',
            "container_file_t:s0:c1,c2",
        ),
        # Labels of files that have none, and of the root alone: not of all.
        ("ro,defcontext=system_u:object_r:x_t:s0,rootcontext=system_u:object_r:y_t:s0", ""),
    ],
)
def test_a_mounts_label_is_read(options, label) -> None:
    found = layer_labels.of(dataclasses.replace(ENTRY, options=options))

    assert found == (f"system_u:object_r:{label}" if label else "")


def test_categories_are_kept_together_in_the_options_of_a_mount() -> None:
    label = "system_u:object_r:container_file_t:s0:c1,c2"
    options = layer_labels.options(label)

    assert layer_labels.of(dataclasses.replace(ENTRY, options=f"ro,{options}")) == label
    assert layer_labels.options("") == ""


def test_without_selinux_nothing_is_tried(monkeypatch) -> None:
    monkeypatch.setattr(layer_labels, "is_active", lambda: False)

    assert layer_labels.state("auto") == ("", "", "")
