"""Local copies are where those who read a store look for layers."""

import pathlib

from agent.local import copy_paths
from agent.store import layout

NAME = "ab" * 32
DIFF_ID = f"sha256:{NAME}"


def test_the_folder_is_laid_out_as_a_store() -> None:
    where = copy_paths.of("/root")
    store = layout.Layout(pathlib.Path("/root/local"))

    assert where.layer(NAME) == str(store.layer(DIFF_ID))
    assert where.tree(NAME) == str(store.layer_tree(DIFF_ID))
    assert where.record(NAME) == str(store.layer_record(DIFF_ID))
    assert where.tmp == str(store.tmp)
