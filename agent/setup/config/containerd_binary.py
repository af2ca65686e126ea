"""Runs a containerd binary to learn its release, and how it understands a configuration.

`enter` is a prefix of the command: it runs the node's binary from within a container
(agent.setup.node.host).
"""

import pathlib
import re
import socket
import struct
import subprocess
from collections.abc import Sequence

from agent import errors
from agent.setup.config import settings_view

SECONDS = 20.0

_RELEASE = re.compile(r"\bv?(\d+)\.(\d+)(?:\.\d+|\b)")


class ContainerdError(errors.PermanentError):
    """A containerd binary failed: `command` was run, `reason` is its message or the error."""

    def __init__(self, command: str, reason: str) -> None:
        super().__init__(f"`{command}`: {reason}")
        self.command = command
        self.reason = reason


def parse_release(text: str) -> settings_view.Release:
    """The release in the output of `containerd --version`, or in a plain `2.1`."""
    match = _RELEASE.search(text)
    if match is None:
        raise ContainerdError("containerd --version", f"no release in {text[:100]!r}")
    return settings_view.Release(int(match[1]), int(match[2]))


def release_of(binary: str, *, enter: Sequence[str] = ()) -> settings_view.Release:
    """The release of a binary."""
    return parse_release(_run(*enter, binary, "--version"))


def running(socket_path: str) -> str | None:
    """The path on the node of the containerd program that listens on a socket.

    PATH may lead to another containerd, but this one reads the configuration that is to change.
    None where no process of this PID namespace listens there. Where the program's file was
    replaced by an upgrade while it runs, this is the path of the new file: that one reads the
    configuration at the next start.
    """
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(SECONDS)
            connection.connect(socket_path)
            size = struct.calcsize("3i")
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        process, _, _ = struct.unpack("3i", credentials)
        program = str(pathlib.Path(f"/proc/{process}/exe").readlink())
    except OSError:
        return None
    return program.removesuffix(" (deleted)")


def dump(binary: str, main: str, *, enter: Sequence[str] = ()) -> str:
    """The configuration in force with a main file: imports merged, defaults filled in."""
    return _run(*enter, binary, "--config", main, "config", "dump")


def view_of_dump(text: str, release: settings_view.Release) -> settings_view.View:
    """The view of a configuration from the output of `dump`."""
    return settings_view.view(
        settings_view.File(settings_view.Path("/containerd config dump"), text), [], release
    )


def _run(*command: str) -> str:
    line = " ".join(command)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except FileNotFoundError as error:
        raise ContainerdError(line, "no such program") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ContainerdError(line, str(error)) from error
    if done.returncode != 0:
        raise ContainerdError(line, _reason(done.stderr) or f"exit status {done.returncode}")
    return done.stdout


def _reason(output: str) -> str:
    """The line that says why containerd ended: its last, or the one above a stack trace."""
    lines = [line for line in output.splitlines() if line.strip()]
    panics = [line for line in lines if line.startswith("panic:")]
    return (panics or lines[-1:] or [""])[0].removeprefix("containerd: ")
