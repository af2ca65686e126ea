"""The project's own container image: its root file system, and the OCI archive of that.

`python -m lab.image` makes the archive. The test images are made in `lab.samples`.
"""
