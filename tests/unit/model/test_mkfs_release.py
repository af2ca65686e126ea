import pytest

from agent.model.erofs import mkfs_release


@pytest.mark.parametrize(
    ("printed", "shown", "is_new_enough"),
    [
        ("mkfs.erofs (erofs-utils) 1.8.6\navailable compressors: lz4", "1.8.6", True),
        ("mkfs.erofs 1.10-dev", "1.10-dev", True),
        ("mkfs.erofs 1.7.1", "1.7.1", False),
    ],
)
def test_the_release_that_a_program_prints(printed: str, shown: str, is_new_enough: bool) -> None:
    release = mkfs_release.parse(printed)

    assert release is not None
    assert (str(release), release.builds_layers) == (shown, is_new_enough)


def test_another_program_has_no_release() -> None:
    assert mkfs_release.parse("mkfs.ext4 1.47") is None
