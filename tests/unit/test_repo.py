"""What must hold of the repository as a whole."""

import filecmp
import pathlib

from agent._proto import generate

ROOT = pathlib.Path(__file__).parents[2]


def test_the_generated_stubs_are_those_of_the_proto_files(tmp_path: pathlib.Path) -> None:
    (tmp_path / "agent" / "_proto").mkdir(parents=True)
    generate.generate(ROOT, tmp_path)
    made = [path.relative_to(tmp_path) for path in tmp_path.rglob("*_pb2*.py*")]

    assert made
    _, different, missing = filecmp.cmpfiles(ROOT, tmp_path, made, shallow=False)
    assert (different, missing) == ([], [])
