"""Every test finds the lab's tools (mkfs.erofs >= 1.8 and others) on its PATH."""

import os
import pathlib

LAB = pathlib.Path(os.environ.get("UIMGACC_LAB", pathlib.Path(__file__).parents[1] / ".lab"))

os.environ["PATH"] = f"{LAB / 'bin'}{os.pathsep}{os.environ['PATH']}"
