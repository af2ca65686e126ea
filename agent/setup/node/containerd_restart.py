"""Has containerd read its configuration again: once, and only where that is due.

A restart that is due is noted in a file below /run before anything changes, and
the note goes with the restart. So one that failed, or that a crash came before, is
made up for by the next run, and a reboot, after which none is due, forgets it.
"""

import contextlib
import shlex
import subprocess
from collections.abc import Iterator, Sequence

from agent import errors
from agent.setup.config import places, settings_view
from agent.setup.node import host

NOTE = settings_view.Path("/run/uimgacc/restart-due")

_UNITS = {"k3s": ("k3s-agent", "k3s"), "rke2": ("rke2-agent", "rke2-server")}
SECONDS = 180.0
# systemctl does nothing in what it takes for a chroot, because there is no systemd in most. In
# the node's own root there is: its socket is where it always is.
_SYSTEMCTL = ("env", "SYSTEMD_IGNORE_CHROOT=1", "systemctl")


class RestartError(errors.PermanentError):
    """containerd did not restart; `command` is what was tried."""

    def __init__(self, command: str, reason: str) -> None:
        super().__init__(f"`{command}` failed: {reason}")
        self.command = command


class Due:
    """Whether containerd has to be restarted."""

    def __init__(self, machine: host.Host) -> None:
        self._host = machine
        self.already = machine.read(NOTE) is not None
        """Whether an earlier run left a restart to be made."""

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """Note it for a change of the configuration; one that is refused changes nothing."""
        self._host.write(NOTE, b"")
        try:
            yield
        except errors.AgentError:
            if not self.already:
                self.clear()
            raise

    def clear(self) -> None:
        """It is done, or none is due."""
        self._host.remove(NOTE)


def command_for(machine: host.Host, main: settings_view.Path) -> list[str]:
    """The command that makes containerd read its configuration again."""
    units = _UNITS.get(places.rancher(main) or "", ("containerd",))
    systemctl = [*machine.enter, *_SYSTEMCTL] if machine.enter else ["systemctl"]
    for unit in units[:-1]:
        asked = subprocess.run([*systemctl, "is-active", "--quiet", unit], check=False)
        if asked.returncode == 0:
            return [*systemctl, "restart", unit]
    return [*systemctl, "restart", units[-1]]


def restart(command: Sequence[str]) -> None:
    """Run it; raise RestartError when it fails."""
    line = shlex.join(command)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RestartError(line, str(error)) from error
    if done.returncode != 0:
        reason = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        raise RestartError(line, reason)
