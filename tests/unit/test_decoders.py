"""Types that several threads decode are described once, by the thread that imports them.

msgspec describes a type at its first use, and two threads that do so at once may end the
process (SIGSEGV). `msgspec.json.Decoder` does it where it is made.
"""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]

IN_THREADS = ("model", "store", "build", "snapshotter")
"""Packages below agent/ whose functions run in threads."""

LAZY = {"decode", "convert"}

FIRST_DECODE = """
import sys, threading
from agent.model import records
sys.setswitchinterval(1e-5)
data = b'{"diff_id": "sha256:%s", "parent": null}' % (b"0" * 64)
barrier = threading.Barrier(16)
def decode():
    barrier.wait()
    for kind in (records.ImageRecord, records.CacheRecord, records.RetiredRecord):
        try:
            records.decode(data, kind, "x")
        except records.RecordError:
            pass
threads = [threading.Thread(target=decode) for _ in range(16)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


def _lazy_calls(path: pathlib.Path) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in LAZY
        and ast.unparse(node.func).startswith("msgspec.")
        and "type" in {keyword.arg for keyword in node.keywords}
    ]


def test_decoders_of_what_threads_read_are_made_at_import() -> None:
    files = [path for name in IN_THREADS for path in (ROOT / "agent" / name).rglob("*.py")]

    assert files
    assert [call for path in files for call in _lazy_calls(path)] == []


@pytest.mark.parametrize("attempt", range(5))
def test_the_first_decoding_in_many_threads_at_once_ends_well(attempt: int) -> None:
    ended = subprocess.run([sys.executable, "-c", FIRST_DECODE], cwd=ROOT, timeout=60)

    assert ended.returncode == 0
