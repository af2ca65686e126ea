"""The chart as Helm's archive, the same bytes each time."""

import gzip
import io
import pathlib
import tarfile

from lab.chart import chart_files


def write(
    folder: pathlib.Path, image: chart_files.Image | None = None, *, epoch: int = 0
) -> pathlib.Path:
    """Write uimgacc-VERSION.tgz into a folder; raise CannotRenderError.

    With an image, the chart installs that one unless its user says otherwise. `epoch` is the time
    of all files in it.
    """
    path = folder / f"uimgacc-{chart_files.project_version()}.tgz"
    path.write_bytes(contents(image, epoch=epoch))
    return path


def contents(image: chart_files.Image | None = None, *, epoch: int = 0) -> bytes:
    """Return the archive; raise CannotRenderError."""
    files = chart_files.texts(image)
    # What reads the head of an archive only, such as an index, finds Chart.yaml first.
    names = sorted(files, key=lambda name: (name != "Chart.yaml", name))
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in names:
            data = files[name].encode()
            entry = tarfile.TarInfo(f"uimgacc/{name}")
            entry.size, entry.mtime, entry.mode = len(data), epoch, 0o644
            tar.addfile(entry, io.BytesIO(data))
    return gzip.compress(raw.getvalue(), mtime=epoch)
