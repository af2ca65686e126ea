"""Every test finds the lab's tools (mkfs.erofs >= 1.8 and others) on its PATH."""

import asyncio
import os
import pathlib

LAB = pathlib.Path(os.environ.get("UIMGACC_LAB", pathlib.Path(__file__).parents[1] / ".lab"))

os.environ["PATH"] = f"{LAB / 'bin'}{os.pathsep}{os.environ['PATH']}"

# looptime asks every test for its event loop, and asyncio would make one for a test that has
# none and never close it: with warnings as errors that fails the whole run at its end.
asyncio.set_event_loop(None)
