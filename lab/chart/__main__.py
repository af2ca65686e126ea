"""`python -m lab.chart`: write charts/uimgacc anew from manifests/."""

import sys

from lab.chart import chart_files, conditions, renderings


def main() -> None:
    """Write what differs, remove what is no longer made, and say which files these are."""
    try:
        texts = chart_files.texts()
    except (
        renderings.CannotRenderError,
        chart_files.ControllerChangesError,
        conditions.UnknownShapeError,
    ) as error:
        sys.exit(f"chart: {error}")
    changed = 0
    for path in chart_files.FOLDER.rglob("*"):
        if path.is_file() and str(path.relative_to(chart_files.FOLDER)) not in texts:
            path.unlink()
            changed += 1
    for name, text in texts.items():
        path = chart_files.FOLDER / name
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            changed += 1
    print(f"chart: {len(texts)} files, {changed} of them changed")


main()
