"""Plain English: words that a reader who is new to the project stumbles over are not used.

Say who does what, in the words of Kubernetes and containerd: the snapshotter, an event is
emitted, the cache's owner, the pull is retried (CONTRIBUTING.md).
"""

import pathlib
import re
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parents[2]
WORDS = re.compile(
    # Also as parts of names: is_ours, tell_of_node. Not in "hours".
    r"(?<![a-z])(ours|told|tells?|telling|nobody|whoever|news)(?![a-z])"
    r"|\bas ever\b|\bfor nobody\b|\bin the way\b|\bcomes? to own\b|\bof no use\b|\bno use of\b"
    r"|\bleft to itself\b|\bthe disks rest\b|\bis the last to\b|\bwho takes the \w+ over\b",
    re.IGNORECASE,
)
PART_OF_THE_INTERFACE = ("uimgacc.io/deletion-told", 'field(name="ours")', ".tell()")


def texts() -> Iterator[pathlib.Path]:
    yield from (path for path in ROOT.joinpath("agent").rglob("*.py") if "_pb2" not in path.name)
    yield from ROOT.joinpath("docs").rglob("*.md")
    yield from ROOT.glob("*.md")
    for kind in ("*.yaml", "*.env", "*.md", "*.sh"):
        yield from ROOT.joinpath("manifests").rglob(kind)


def stumbles(path: pathlib.Path) -> list[str]:
    text = path.read_text()
    for name in PART_OF_THE_INTERFACE:
        text = text.replace(name, "")
    lines = enumerate(text.splitlines(), 1)
    return [f"{path.relative_to(ROOT)}:{at}: {line}" for at, line in lines if WORDS.search(line)]


def test_what_people_read_is_in_plain_words() -> None:
    assert [line for path in texts() for line in stumbles(path)] == []
