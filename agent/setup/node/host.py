"""The files of a node, which may be mounted somewhere else than at /."""

import contextlib
import fcntl
import os
import pathlib
import secrets
from collections.abc import Iterator

from agent.kits import files
from agent.setup.config import settings_view

SYSTEM = tuple(
    map(
        settings_view.Path,
        ("/dev", "/etc", "/nix/store", "/opt", "/proc", "/run", "/sys", "/usr", "/var"),
    )
)
"""Where a system has mounts for as long as it runs; its programs and their sockets are there."""


class Host:
    """Reads and replaces files by the path that they have on the node.

    `root` is where the node's file system is to be seen: `/`, or where a container
    has it mounted. A replaced file keeps its mode and owner, and is there as a whole
    or not at all.
    """

    def __init__(self, root: pathlib.Path = pathlib.Path("/")) -> None:
        self.root = root

    @property
    def enter(self) -> tuple[str, ...]:
        """What stands before a command of the node's own programs.

        Empty on the machine itself. In a container that has the node's file system
        mounted they run in there, and reach the node's sockets below its /run.
        """
        return () if self.root == pathlib.Path("/") else ("chroot", str(self.root))

    @property
    def folder_for_drafts(self) -> settings_view.Path:
        """A folder in memory where the node's own programs, too, can read a file for a moment."""
        return settings_view.Path("/run/uimgacc")

    def place(self, path: settings_view.Path) -> pathlib.Path:
        """Where a file of the node is for this process; symbolic links resolved."""
        place = self.root / path.relative_to("/")
        for _ in range(10):
            if not place.is_symlink():
                return place
            target = pathlib.PurePosixPath(place.readlink())
            place = (
                self.root / target.relative_to("/")
                if target.is_absolute()
                else (place.parent / target)
            )
        raise settings_view.ConfigError(path, "a chain of symbolic links without an end")

    def read(self, path: settings_view.Path) -> bytes | None:
        """A file's content; None when it does not exist."""
        try:
            return self.place(path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def text(self, path: settings_view.Path) -> str | None:
        """A file's content as text; raise ConfigError when it is not UTF-8."""
        data = self.read(path)
        try:
            return None if data is None else data.decode()
        except UnicodeDecodeError as error:
            raise settings_view.ConfigError(path, f"not valid TOML: {error}") from error

    def matching(self, pattern: str) -> list[settings_view.Path]:
        """The files that an import pattern names, in containerd's order."""
        paths = self.root.glob(pattern.lstrip("/"))
        return sorted(settings_view.Path("/") / place.relative_to(self.root) for place in paths)

    def write(self, path: settings_view.Path, data: bytes, *, mode: int = 0o644) -> None:
        """Replace a file; `mode` is for one that did not exist."""
        place = self.place(path)
        files.make_folder(place.parent)
        draft = place.parent / f".{place.name}.{secrets.token_hex(6)}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                with contextlib.suppress(FileNotFoundError):
                    old = place.stat()
                    mode = old.st_mode & 0o7777
                    if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
                        os.fchown(file.fileno(), old.st_uid, old.st_gid)
                os.fchmod(file.fileno(), mode)
            files.publish(draft, place)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise

    def remove(self, path: settings_view.Path) -> None:
        """Remove a file; one that is not there is fine."""
        place = self.place(path)
        with contextlib.suppress(FileNotFoundError):
            place.unlink()
            files.sync_folder(place.parent)

    def remove_empty_folder(self, path: settings_view.Path) -> None:
        """Remove a folder if nothing is in it."""
        with contextlib.suppress(OSError):
            (self.root / path.relative_to("/")).rmdir()

    @contextlib.contextmanager
    def locked(self, folder: settings_view.Path) -> Iterator[None]:
        """Keep other node set-ups away; the lock ends with the process."""
        place = self.root / folder.relative_to("/")
        files.make_folder(place)
        descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
