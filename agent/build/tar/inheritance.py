"""Where a layer stands in an image, and what of its files depends on that.

Two things are not in the tar of a layer alone. Directories that it has things in but does
not name: containerd gives them the owner, mode, times and xattrs that they have in the layers
below (archive/tar.go, `mkparent`), so a layer with only `tmp/x` in it leaves /tmp as it was.
And whiteouts in the bottom layer: there is nothing to hide, so containerd removes what the
layer itself has, and no trace remains.

Where such a layer is made, it gets a variant: a layer file under a name of its own, which is a
hash over the layer and its position in the form that `variant_id` writes down. Tools that write
such layers are few, so few layers have variants.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from urllib import parse as urls

from agent.build import erofs, limits
from agent.build.tar import acl, headers, rooted_path, stream
from agent.model import digests


@dataclasses.dataclass(frozen=True, slots=True)
class Position:
    """Where a layer stands, as far as its file depends on that.

    `inherited` are the directories that it implies and a layer below has. `is_bottom` is
    set for a bottom layer with whiteouts only.
    """

    inherited: Mapping[bytes, stream.DirInfo] = dataclasses.field(default_factory=dict)
    is_bottom: bool = False

    def __bool__(self) -> bool:
        return bool(self.inherited) or self.is_bottom


ANYWHERE = Position()


def encode(paths: Sequence[bytes]) -> list[str]:
    """Paths as a record holds them: JSON has no bytes."""
    return [urls.quote_from_bytes(path) for path in paths]


def look_below(
    implied: Sequence[str], files: Sequence[pathlib.Path], account: limits.Account
) -> dict[bytes, stream.DirInfo]:
    """What the layers below have for the directories that a layer implies.

    `files` are the layer files below, the bottom one first. As in containerd, the
    uppermost layer that has something of that name decides. Raises LayerTarError where
    containerd fails: below something that is no directory any more; and TooMuch.
    """
    # In order: the names of a directory are read once for all that is looked for in it.
    missing = sorted(urls.unquote_to_bytes(path) for path in implied)
    inherited: dict[bytes, stream.DirInfo] = {}
    for file in reversed(files):
        if not missing:
            break
        account.look(limits.LOOK_BELOW * len(missing))
        with erofs.Layer(file, account.look) as layer:
            answers = {path: _find(layer, path) for path in missing}
        inherited |= {
            path: answer
            for path, answer in answers.items()
            if isinstance(answer, stream.DirInfo) and answer != stream.MADE
        }
        missing = [path for path, answer in answers.items() if answer is False]
    return inherited


def variant_id(diff_id: str, position: Position) -> digests.DiffID:
    """The name of a layer's file at a position: the same for the same."""
    lines = ["uimgacc variant 1", diff_id, *(["bottom"] if position.is_bottom else [])]
    for path, info in sorted(position.inherited.items()):
        xattrs = ",".join(
            f"{urls.quote_from_bytes(key)}={value.hex()}" for key, value in info.xattrs
        )
        lines.append(
            f"{urls.quote_from_bytes(path)} {info.mode:o} {info.uid}:{info.gid}"
            f" {info.mtime}.{info.mtime_ns:09} {xattrs}"
        )
    return _digest("\n".join(lines))


def names(diff_id: str, position: Position) -> list[digests.DiffID]:
    """The names that a layer's file may have at a position, the one to write first.

    The second is that of earlier versions, of which `repr` is a part. They did not know
    of default ACLs, and made other files where a directory has one.
    """
    current = variant_id(diff_id, position)
    if position.is_bottom or any(
        key == acl.DEFAULT for info in position.inherited.values() for key, _ in info.xattrs
    ):
        return [current]
    pairs = sorted(
        (
            path,
            f"DirInfo(mode={info.mode}, uid={info.uid}, gid={info.gid}, mtime={info.mtime},"
            f" mtime_ns={info.mtime_ns}, xattrs={info.xattrs!r})",
        )
        for path, info in position.inherited.items()
    )
    return [current, _digest(repr((diff_id, pairs)))]


def _find(layer: erofs.Layer, path: bytes) -> stream.DirInfo | bool:
    try:
        return layer.find(path)
    except erofs.NotADirectory as error:
        raise headers.LayerTarError(
            f"it puts something into {headers.show(path)}, but {headers.show(error.path)} is no"
            " directory in a layer below (a file, or removed by a whiteout)"
        ) from error
    except rooted_path.TooManyLinksError as error:
        raise headers.LayerTarError(
            f"{headers.show(path)} leads to a circle of symlinks in a layer below"
        ) from error


def _digest(text: str) -> digests.DiffID:
    return digests.DiffID("sha256:" + hashlib.sha256(text.encode()).hexdigest())
