"""What a bug report takes from one machine: containerd, kernel, mounts, and the agent, if any."""

import asyncio
import dataclasses
from collections.abc import Callable, Sequence

import aiofiles
import aiohttp

from agent.cli.bugreport import archive
from agent.cli.cluster import agent_pods
from agent.kits.processes import programs
from agent.setup.config import places, settings_view
from agent.setup.doctor import examination
from agent.setup.node import host

_SECONDS = 20.0
_DOCTOR_SECONDS = 60.0
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C",
}

FILES = (
    "/etc/os-release",
    "/proc/version",
    "/proc/cmdline",
    "/proc/filesystems",
    "/proc/meminfo",
    "/proc/self/mountinfo",
    "/proc/pressure/io",
)
"""Read as they are."""

COMMANDS: dict[str, Sequence[str]] = {
    "dmesg.txt": ("dmesg", "--ctime"),
    "journal-containerd.txt": ("journalctl", "-u", "containerd", "-n", "2000", "--no-pager"),
    "journal-kubelet.txt": ("journalctl", "-u", "kubelet", "-n", "500", "--no-pager"),
    "disks.txt": ("df", "-hT", "-x", "nfs", "-x", "nfs4"),
    "loop-devices.txt": ("losetup", "--list"),
    "modules.txt": ("lsmod",),
}
"""Run, and their output taken. None of them asks the store: it may hang."""

Report = Callable[[str, int], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Material:
    """Reads a machine into an archive, part by part."""

    archive: archive.Archive
    patient: examination.Patient
    report: Report

    async def collect(self) -> None:
        """All of it. What cannot be read is noted."""
        for path in FILES:
            await self._file(path)
        for done, (name, command) in enumerate(COMMANDS.items()):
            self.report(f"running {command[0]}", 5 + 10 * done)
            await self._command(f"machine/{name}", command)
        self.report("asking containerd", 70)
        await self._containerd()
        self.report("asking the agent", 80)
        for path in ("status", "metrics"):
            await self._agent(path)
        self.report("running doctor", 85)
        await self._doctor()

    async def _file(self, path: str) -> None:
        name = f"machine{path}"
        try:
            async with aiofiles.open(path, "rb") as file:
                self.archive.add_text(name, await file.read(archive.FILE_LIMIT))
        except OSError as error:
            self.archive.miss(name, str(error))

    async def _command(self, name: str, command: Sequence[str]) -> None:
        bounds = programs.Bounds(deadline=_SECONDS, output=archive.FILE_LIMIT)
        try:
            ended = await programs.run(
                command[0], command[1:], environment=_ENVIRONMENT, bounds=bounds
            )
        except TimeoutError:
            self.archive.miss(name, f"{command[0]} did not end within {_SECONDS:g} s")
        except OSError as error:
            self.archive.miss(name, f"{command[0]}: {error.strerror or error}")
        else:
            if ended.output or not ended.status:
                self.archive.add_text(name, ended.output)
            else:
                self.archive.miss(name, f"{command[0]}: {ended.last_words()}")

    async def _containerd(self) -> None:
        main = places.main_of(
            settings_view.Path(self.patient.config)
            if self.patient.config
            else places.find_config(host.Host())
        )
        binary = self.patient.containerd_binary or places.find_binary(main)
        await self._command("machine/containerd-version.txt", (binary, "--version"))
        # What is in force: with imports and defaults.
        dump = (binary, "--config", str(main), "config", "dump")
        await self._command("machine/containerd-config.toml", dump)

    async def _agent(self, path: str) -> None:
        name = f"machine/agent-{path}"
        url = f"http://127.0.0.1:{agent_pods.PORT}/{path}"
        try:
            async with (
                asyncio.timeout(_SECONDS),
                aiohttp.ClientSession() as session,
                session.get(url) as answer,
            ):
                data = await answer.content.read(archive.FILE_LIMIT)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self.archive.miss(name, f"no agent answers at {url}: {str(error) or 'not in time'}")
        else:
            self.archive.add_json(f"{name}.json", data)

    async def _doctor(self) -> None:
        findings: list[dict[str, str]] = []
        try:
            async with asyncio.timeout(_DOCTOR_SECONDS):
                async for finding in examination.examine(self.patient):
                    level = finding.level.value
                    findings += [{**dataclasses.asdict(finding), "level": level}]
        except TimeoutError:
            self.archive.miss("machine/doctor", f"it did not end within {_DOCTOR_SECONDS:g} s")
        self.archive.add_object("machine/doctor.json", findings)
