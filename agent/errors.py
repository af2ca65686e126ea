"""The root of all errors that this package raises on purpose.

    AgentError
    ├── TemporaryError      worth another try; `delay` says when
    └── PermanentError      another try gives the same answer

Leaves live beside the code that raises them and carry documented fields. Every
message is written for the person who has to act: what failed, on what, and what
to do. Anything that is not an AgentError is a bug and goes up.
"""


class AgentError(Exception):
    """Something failed in a way that was foreseen; `str()` is for people."""


class TemporaryError(AgentError):
    """Worth another try.

    `delay` is the number of seconds to wait first, where the other side named
    one (a registry's Retry-After), else None: the caller's backoff decides.
    """

    def __init__(self, message: str, *, delay: float | None = None) -> None:
        super().__init__(message)
        self.delay = delay


class PermanentError(AgentError):
    """Another try without a change of input gives the same answer."""
