"""uimgacc: container images unpacked once, mounted everywhere.

`roles` holds the four programs of this package, `cli` the commands that start
them. The layers below are declared in pyproject.toml and checked by
import-linter; docs/internals/architecture.md has the picture.
"""
