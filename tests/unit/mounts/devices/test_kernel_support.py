"""Which kernels read all layers."""

import pytest

from agent.mounts.devices import kernel_support

NEWER = ["zero_padding", "compr_cfgs", "big_pcluster", "chunked_file", "device_table"]


@pytest.mark.parametrize(
    ("release", "features"),
    [
        ("5.15.0-130-generic", []),
        ("6.1.0-50-amd64", NEWER),
        ("7.2.12+deb14-amd64", NEWER),
        # Red Hat's have the EROFS of a later kernel.
        ("5.14.0-570.el9.x86_64", NEWER),
        ("of-my-own", []),
    ],
)
def test_what_reads_all_layers_is_taken(release, features) -> None:
    assert kernel_support.judge(release, features) == ""


@pytest.mark.parametrize(
    ("release", "features", "said"),
    [
        ("5.10.0-32-amd64", [], "kernel 5.10.0-32-amd64 is too old: its EROFS cannot read all"),
        ("4.18.0-553.el8.x86_64", [], "too old"),
        ("6.1.0-strange", ["zero_padding", "big_pcluster"], "its EROFS lacks chunked_file"),
    ],
)
def test_what_does_not_is_refused(release, features, said) -> None:
    assert said in kernel_support.judge(release, features)
