"""Releases: `make release`, and `python -m lab.release push REGISTRY`.

What belongs here: the version of a commit, the images of both platforms, what goes with them
(chart, manifests, bills of materials, provenance, checksums), signatures, and the push. All of
it but the signatures is the same bytes each time, for the same commit and the same packages.
"""
