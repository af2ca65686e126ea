"""install-OVERLAY.yaml: everything of an installation in one file, for `kubectl apply -f`.

    python -m lab.install_files FOLDER IMAGE

The same objects as `uimgacc enable` applies. An export stands in them that their reader replaces.
"""

import dataclasses
import pathlib
import sys

from lab.chart import renderings, schema

EXPORT = ("nfs.example.internal", "/uimgacc")

_HEAD = """\
# uimgacc: {about}
#
# Put in the name or address of your NFS server:
#
#   sed -e 's|{server}|10.0.0.5|' {name} | kubectl apply --server-side -f -
# With another path than {path}, for instance /export:
#
#   sed -e 's|{server}:{path}|SERVER:/export|;s|path: {path}$|path: /export|;s|{server}|SERVER|' \\
#       {name} | kubectl apply --server-side -f -
#
"""
_UNDO = """\
# uimgacc: puts each node back as it was, after everything else of uimgacc has been deleted.
# docs/install/uninstall.md says when to apply it, and when to delete it.
"""


@dataclasses.dataclass(frozen=True, slots=True)
class InstallFile:
    """One file: an overlay with components."""

    name: str
    about: str
    overlay: str
    components: tuple[str, ...] = schema.ON


FILES = (
    InstallFile(
        "install-runtimeclass.yaml",
        "pods that ask for a cache use the snapshotter. Kubernetes 1.36 and newer.",
        renderings.OVERLAY,
    ),
    InstallFile(
        "install-runtimeclass-webhook.yaml",
        "the same for Kubernetes 1.30 to 1.35: a webhook stands for the admission policy.",
        renderings.OVERLAY,
        (*schema.ON, "webhook"),
    ),
    InstallFile(
        "install-default-snapshotter.yaml",
        "all pods use the snapshotter. Read docs/install/all-pods.md first.",
        renderings.EVERY_POD,
    ),
)
UNINSTALL = "uninstall.yaml"


def main(folder: str, image: str) -> None:
    """Write all files and name them."""
    for path in write(pathlib.Path(folder), image):
        print(path)


def write(folder: pathlib.Path, image: str) -> list[pathlib.Path]:
    """Write the files with an image, NAME:TAG or NAME@sha256:...; raise CannotRenderError."""
    written = []
    for name, text in texts(image).items():
        path = folder / name
        path.write_text(text)
        written.append(path)
    return written


def texts(image: str) -> dict[str, str]:
    """Return the files by their names; raise CannotRenderError."""
    entry = _entry(image)
    made = {each.name: _text(each, entry) for each in FILES}
    undo = renderings.build(["uninstall"], [], {"images": [{"name": "uimgacc", **entry}]})
    return {**made, UNINSTALL: f"{_UNDO}---\n{undo}"}


def _text(file: InstallFile, image: dict[str, str]) -> str:
    server, path = EXPORT
    head = _HEAD.format(about=file.about, name=file.name, server=server, path=path)
    body = renderings.kustomized(
        file.overlay, file.components, export=f"{server}:{path}", image=image
    )
    return f"{head}---\n{body}"


def _entry(image: str) -> dict[str, str]:
    """The part of kustomize's `images` for an image."""
    name, at, digest = image.partition("@")
    if at:
        return {"newName": name, "digest": digest}
    head, colon, tag = name.rpartition(":")
    return {"newName": head, "newTag": tag} if colon and "/" not in tag else {"newName": name}


if __name__ == "__main__":
    main(*sys.argv[1:])
