"""What a build vouches for, to have it signed by the controller.

A builder has no key: it processes hostile input. It reports a digest over the statements of all
that it made, by a way that is not the store (the message of its container), and the controller
signs what is in the store only if it has that digest. So a build must not take over from the
store what is not vouched for: a stored layer counts as there only if it is signed, else it is
made again.
"""

from agent.model import records
from agent.store import signatures


class Attestation:
    """Collects the statements of one build in the store of the ID `store`; believes `trust`.

    Without `trust` (no keys, as on a single machine) every stored layer counts.
    """

    def __init__(self, store: str = "", trust: signatures.Trust | None = None) -> None:
        self._store = store
        self._trust = trust
        self._statements: dict[tuple[str, str], signatures.Statement] = {}

    def believes(self, record: records.LayerRecord) -> bool:
        """Whether a layer of the store may be used as it is."""
        if self._trust is None:
            return True
        return self._trust.has_signed(signatures.of_layer(record), record.signatures)

    def has(self, statement: signatures.Statement) -> bool:
        """Whether a statement is vouched for; true of every one where nothing is signed."""
        if self._trust is None:
            return True
        return self._statements.get((statement.kind, statement.name)) == statement

    def add(self, statement: signatures.Statement) -> None:
        """Vouch for a record that was made, or believed; the last one of a name counts."""
        self._statements[statement.kind, statement.name] = statement

    @property
    def layers(self) -> list[str]:
        """The names of the layers that are vouched for."""
        return sorted(name for kind, name in self._statements if kind == "layer")

    def message(self) -> str:
        """The line for the container's message; "" where nothing is to be signed."""
        if self._trust is None:
            return ""
        digest = signatures.digest_of(self._statements.values(), self._store)
        return signatures.attestation(digest)
