"""How `uimgacc` starts its roles."""

import gc
from collections.abc import Sequence

import pytest

from agent.cli import entry
from agent.roles import agent, builder, controller


@pytest.mark.parametrize(
    ("command", "role"), [("agent", agent), ("build", builder), ("controller", controller)]
)
def test_garbage_is_collected_of_what_comes_after_the_modules(monkeypatch, command, role) -> None:
    seen: list[tuple[Sequence[str], bool, bool]] = []

    def main(arguments: Sequence[str]) -> None:
        seen.append((arguments, gc.isenabled(), gc.get_freeze_count() > 10_000))

    monkeypatch.setattr(role, "main", main)
    monkeypatch.setattr("sys.argv", ["uimgacc", command, "--flag"])
    try:
        with pytest.raises(SystemExit):
            entry.main()
    finally:
        gc.unfreeze()
    assert seen == [(["--flag"], True, True)]
