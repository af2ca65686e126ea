import pathlib

import pytest

from agent.setup.node import erofs_tools, host


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo '  --tar=X  generate a full or index-only image'", ""),
        ("echo usage: mkfs.erofs >&2; exit 1", "needs mkfs.erofs"),
        (None, "needs mkfs.erofs"),
    ],
)
def test_the_nodes_own_program_is_asked(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, script: str | None, expected: str
) -> None:
    if script is not None:
        program = tmp_path / "mkfs.erofs"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    problem = erofs_tools.problem(host.Host())
    assert expected in problem
    assert bool(problem) is bool(expected)
