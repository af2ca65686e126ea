"""Where things of the lab lie.

One folder holds everything: `.lab` in the checkout, or what UIMGACC_LAB says.
"""

import os
import pathlib

CHECKOUT = pathlib.Path(__file__).resolve().parent.parent
LAB = pathlib.Path(os.environ.get("UIMGACC_LAB") or CHECKOUT / ".lab").resolve()

BIN = LAB / "bin"
"""Wrappers of Debian 13's erofs-utils, and links to the other tools, for PATH."""

STORAGE = LAB / "registry"
"""The registry's storage with all test images in it."""

CONTAINERDS = {"1.7": LAB / "containerd-1.7/usr/bin", "2": LAB / "containerd-2/usr/bin"}
"""The folder with the programs of each containerd, by its version."""
CNI = LAB / "cni/usr/lib/cni"
"""The folder with the plugins for networks of pods."""

if _named := os.environ.get("UIMGACC_CONTAINERD"):
    # A newer one: its configuration is written as that of containerd 2.
    CONTAINERDS["named"] = pathlib.Path(_named).resolve()
NEWEST = list(CONTAINERDS)[-1]
"""What runs where a test needs one containerd: the named one, where there is one."""

SOCI = LAB / "soci/usr/bin"
CRI_API = LAB / "cri-api"
"""Modules generated from the CRI's own api.proto; `lab.runtime.cri` imports them from here."""
