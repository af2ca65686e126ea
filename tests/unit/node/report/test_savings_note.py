"""What a node has saved, on its Lease."""

import pytest

from agent import errors
from agent.clients.kube import rest_client
from agent.model import keys, reports
from agent.node.report import day_savings, node_lease, savings, savings_note


class Notes:
    def __init__(self) -> None:
        self.written: list[dict[str, str]] = []
        self.fails = False

    async def note(self, **annotations: str) -> None:
        if self.fails:
            raise errors.TemporaryError("the API server is away")
        self.written.append(annotations)


class Ledger:
    def __init__(self, totals: savings.Totals) -> None:
        self.totals = totals
        self.today = day_savings.DayTally()


def saving() -> savings.Totals:
    totals = savings.Totals(seconds=12.34, size=5)
    totals.images["hit"] = 2
    return totals


async def test_nothing_is_written_before_something_came() -> None:
    notes = Notes()

    await savings_note.Accountant(Ledger(savings.Totals()), notes).write()

    assert notes.written == []


async def test_what_was_saved_is_written_as_the_controller_reads_it() -> None:
    notes = Notes()

    await savings_note.Accountant(Ledger(saving()), notes).write()

    ((key, text),) = notes.written[0].items()
    found = reports.decode_saved(text)
    assert key == keys.SAVED
    assert found is not None
    assert (found.seconds, found.size, found.images["hit"]) == (12.3, 5, 2)


async def test_it_is_written_once_and_again_where_that_failed() -> None:
    notes = Notes()
    accountant = savings_note.Accountant(Ledger(saving()), notes)
    notes.fails = True
    with pytest.raises(errors.TemporaryError):
        await accountant.write()
    notes.fails = False

    await accountant.write()
    await accountant.write()

    assert len(notes.written) == 1


async def test_nothing_is_written_before_the_node_is_known() -> None:
    class Node:
        uid = ""

    asked: list[object] = []

    class Api:
        async def patch(self, resource: rest_client.Resource, *_: object, **__: object) -> None:
            asked.append(resource)

    lease = node_lease.NodeLease(Api(), Node(), name="n", namespace="x")  # type: ignore[arg-type]

    await lease.note(**{keys.SAVED: "{}"})

    assert asked == []
