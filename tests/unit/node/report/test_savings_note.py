"""What a node has saved, on its node object."""

from agent.model import keys, reports
from agent.node.report import savings, savings_note


class Board:
    def __init__(self) -> None:
        self.written: list[dict[str, str | None]] = []

    def annotate(self, **annotations: str | None) -> None:
        self.written.append(annotations)


class Ledger:
    def __init__(self, totals: savings.Totals) -> None:
        self.totals = totals


def test_nothing_is_written_before_something_came() -> None:
    board = Board()

    savings_note.Accountant(Ledger(savings.Totals()), board).write()

    assert board.written == []


def test_what_was_saved_is_written_as_the_controller_reads_it() -> None:
    board = Board()
    totals = savings.Totals(seconds=12.34, size=5)
    totals.images["hit"] = 2

    savings_note.Accountant(Ledger(totals), board).write()

    ((key, text),) = board.written[0].items()
    found = reports.decode_saved(text or "")
    assert key == keys.SAVED
    assert found is not None
    assert (found.seconds, found.size, found.images["hit"]) == (12.3, 5, 2)
