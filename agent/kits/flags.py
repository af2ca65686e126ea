"""Command line flags of a role, each with its environment variable."""

import argparse
import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence

Flag = tuple[str, Callable[[str], object], str]
"""A flag's name without dashes, what reads its value, and its help."""


def path(text: str) -> pathlib.Path:
    """Read a path, from the working directory if it is relative."""
    return pathlib.Path(text).absolute()


def truth(text: str) -> bool:
    """Read true or false."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, not {text!r}")
    return text.lower() == "true"


def parser(
    program: str, description: str, flags: Sequence[Flag], made: type
) -> argparse.ArgumentParser:
    """A parser of flags for the fields of the dataclass `made`, which has their defaults.

    A flag that is not given is taken from its variable (UIMGACC_STORE for --store, ...).
    """
    found = argparse.ArgumentParser(prog=program, description=description)
    defaults = {
        field.name: field.default
        for field in dataclasses.fields(made)
        if field.default is not dataclasses.MISSING
    }
    for flag, kind, text in flags:
        name = flag.replace("-", "_")
        variable = f"UIMGACC_{name.upper()}"
        # argparse converts a default that is a string as it does an argument.
        default = os.environ.get(variable, defaults.get(name))
        required = name not in defaults and default is None
        shown = "" if default in (None, "") else f" (default {default})"
        found.add_argument(
            f"--{flag}",
            type=kind,
            default=default,
            required=required,
            help=f"{text} [{variable}]{shown}",
        )
    return found
