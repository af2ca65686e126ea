"""Directories that a layer has things in but does not name.

containerd gives such a directory the owner, mode, times and xattrs that it has in
the layers below (archive/tar.go, `mkparent`): a layer with only `tmp/x` in it
leaves /tmp as it was. A layer file knows nothing of what is below, and its own
0755 would cover it. So where a layer below has such a directory, the layer gets a
variant with the attributes of there, under a name of its own. Tools that write
such layers are few, so few layers have variants.
"""

import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from urllib import parse as urls

from agent.build import erofs
from agent.build.tar import stream
from agent.model import digests


def encode(paths: Sequence[bytes]) -> list[str]:
    """Paths as a record holds them: JSON has no bytes."""
    return [urls.quote_from_bytes(path) for path in paths]


def look_below(
    implied: Sequence[str], files: Sequence[pathlib.Path]
) -> dict[bytes, stream.DirInfo]:
    """What the layers below have for the directories that a layer implies.

    `files` are the layer files below, the bottom one first. As in containerd, the
    uppermost layer that has something of that name decides.
    """
    missing = [urls.unquote_to_bytes(path) for path in implied]
    found: dict[bytes, stream.DirInfo] = {}
    for file in reversed(files):
        if not missing:
            break
        with erofs.Layer(file) as layer:
            answers = {path: layer.find(path) for path in missing}
        found |= {
            path: answer
            for path, answer in answers.items()
            if isinstance(answer, stream.DirInfo) and answer != stream.MADE
        }
        missing = [path for path, answer in answers.items() if answer is False]
    return found


def variant_id(diff_id: str, inherited: Mapping[bytes, stream.DirInfo]) -> digests.DiffID:
    """The name of a layer with these directories: the same for the same."""
    content = repr((diff_id, sorted((path, repr(info)) for path, info in inherited.items())))
    return digests.DiffID("sha256:" + hashlib.sha256(content.encode()).hexdigest())
