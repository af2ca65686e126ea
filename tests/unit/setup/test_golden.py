"""Real-life configurations, and what node set-up makes of them.

`UPDATE_GOLDEN=1 pytest tests/unit/setup/test_golden.py` writes the expected
differences anew; read them before you commit them.
"""

import os
import pathlib

import pytest

from agent.setup.config import inputs
from agent.setup.node import apply
from tests.unit.setup import machines

cases = pytest.mark.parametrize(("case", "release"), machines.CASES)


@cases
def test_the_difference_is_the_expected_one(
    case: str, release: str, tmp_path: pathlib.Path
) -> None:
    machine = machines.make(tmp_path / "node", case, release)

    outcome = apply.set_up(machine.host, machine.target, inputs.Wanted())

    told = [f"warning: {line}" for line in outcome.warnings]
    told += [f"note: {line}" for line in outcome.notes]
    handlers = [f"{twin} like {copied}" for twin, copied in outcome.twins.items()]
    found = "\n".join([*told, *handlers, ""]) + outcome.diff()
    golden = machines.GOLDEN / case / f"{release}.diff"
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(found)
    assert found == golden.read_text()


@cases
def test_a_second_run_changes_nothing(case: str, release: str, tmp_path: pathlib.Path) -> None:
    machine = machines.make(tmp_path / "node", case, release)
    apply.set_up(machine.host, machine.target, inputs.Wanted())
    before = machine.files()

    outcome = apply.set_up(machine.host, machine.target, inputs.Wanted())

    assert not outcome.changed
    assert machine.files() == before


@cases
def test_a_kernel_that_maps_ids_gives_the_snapshotter_one_capability_and_nothing_else(
    case: str, release: str, tmp_path: pathlib.Path
) -> None:
    machine = machines.make(tmp_path / "node", case, release)
    apply.set_up(machine.host, machine.target, inputs.Wanted())

    outcome = apply.set_up(machine.host, machine.target, inputs.Wanted(maps_ids=True))

    ((old, new),) = outcome.changes.values()
    assert old is not None
    assert new is not None
    added = b'  capabilities = ["remap-ids"]\n'
    assert new.count(b"capabilities") == old.count(b"capabilities") + 1
    assert new.replace(added, b"") == old or new.replace(added.lstrip(), b"") == old

    # And back, with another kernel.
    outcome = apply.set_up(machine.host, machine.target, inputs.Wanted())
    assert list(outcome.changes.values()) == [(new, old)]


@cases
def test_undo_leaves_every_file_as_it_was(case: str, release: str, tmp_path: pathlib.Path) -> None:
    machine = machines.make(tmp_path / "node", case, release)
    before = machine.files()
    apply.set_up(machine.host, machine.target, inputs.Wanted())
    apply.set_up(machine.host, machine.target, inputs.Wanted(address="/run/other.sock"))

    outcome = apply.undo(machine.host, machine.target.main)

    assert outcome.changed
    assert machine.files() == before


@cases
def test_a_dry_run_writes_nothing(case: str, release: str, tmp_path: pathlib.Path) -> None:
    machine = machines.make(tmp_path / "node", case, release)
    before = machine.files()

    outcome = apply.set_up(machine.host, machine.target, inputs.Wanted(), dry_run=True)

    assert outcome.diff()
    assert machine.files() == before
