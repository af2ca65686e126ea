"""The kernel's NFS server, for use inside a guest, on a network of its own.

So that the wire to it can be cut, as well as the server stopped. What it exports are
file systems in memory, which can be replaced.
"""

import pathlib
import shutil
import subprocess
from collections.abc import Sequence

from lab import places, processes

ADDRESS = "10.77.0.2"
_CLIENT = "10.77.0.1"
_NAMESPACE = "nfs"
_STATE = pathlib.Path("/var/lib/nfs")
_CONTROL = pathlib.Path("/proc/fs/nfsd")


class Server:
    """Exports the folders of `root`. There is one in a guest, and it ends with that.

    `lease` and `grace` are in seconds, short as docs/operate/nfs.md advises: clients wait half
    a lease at most between two tries to connect, and for the time of grace, at most, after
    the server's start.
    """

    def __init__(self, root: pathlib.Path, *, lease: int = 15, grace: int = 10) -> None:
        self.root = root
        self._lease = lease
        self._grace = grace
        self._exported = 0
        _ip(f"netns add {_NAMESPACE}")
        _ip(f"link add client type veth peer server netns {_NAMESPACE}")
        _ip(f"address add {_CLIENT}/30 dev client")
        _ip("link set client up")
        _ip(f"-n {_NAMESPACE} address add {ADDRESS}/30 dev server")
        _ip(f"-n {_NAMESPACE} link set server up")
        _ip(f"-n {_NAMESPACE} link set lo up")
        for name in ("nfsdcld", "rpc_pipefs"):
            (_STATE / name).mkdir(parents=True)
        for name in ("etab", "rmtab"):
            (_STATE / name).touch()
        shutil.copy(places.LAB / "nfs/etc/netconfig", "/etc/netconfig")
        pathlib.Path("/etc/exports").touch()
        _inside("mount", "-t", "rpc_pipefs", "pipes", str(_STATE / "rpc_pipefs"))
        _inside("mount", "-t", "nfsd", "nfsd", str(_CONTROL))
        # Remembers the clients, so that the time of grace ends when the last one is back.
        _tool("nfsdcld")
        root.mkdir(parents=True)
        self._export(root)
        _tool("rpc.mountd")
        self.start()

    def start(self, *, without: Sequence[str] = ()) -> None:
        """Serve NFS 4, `without` some of its versions."""
        (_CONTROL / "nfsv4leasetime").write_text(str(self._lease))
        (_CONTROL / "nfsv4gracetime").write_text(str(self._grace))
        left_out = [word for version in ("3", *without) for word in ("-N", version)]
        _tool("rpc.nfsd", *left_out, "4")

    def stop(self) -> None:
        """Serve no more: connections are refused."""
        _tool("rpc.nfsd", "0")

    def cut(self) -> None:
        """Cut the wire: nothing is answered, not even refused."""
        _ip(f"-n {_NAMESPACE} route add blackhole {_CLIENT}/32")

    def mend(self) -> None:
        """Undo `cut`."""
        _ip(f"-n {_NAMESPACE} route del blackhole {_CLIENT}/32")

    def delay(self, seconds: float) -> None:
        """Have a round trip take so much longer from now on, half of it either way."""
        rule = f"root netem delay {seconds / 2 * 1e6:.0f}us limit 100000"
        run(*f"tc qdisc replace dev client {rule}".split())
        _inside(*f"tc qdisc replace dev server {rule}".split())

    def add_heads(self, name: str) -> tuple[str, str]:
        """Give the server a name with two addresses, of which the first drops all packets."""
        dead, alive = "10.88.0.1", "10.88.0.2"
        for address in (dead, alive):
            _ip(f"route add {address}/32 via {ADDRESS}")
            with pathlib.Path("/etc/hosts").open("a") as hosts:
                hosts.write(f"{address} {name}\n")
        _ip(f"-n {_NAMESPACE} address add {alive}/32 dev lo")
        return dead, alive

    def add(self, name: str, *, writable: bool = False) -> pathlib.Path:
        """Export a new file system as `/name`; where it can be filled."""
        path = self.root / name
        path.mkdir()
        self._export(path, writable=writable)
        return path

    def add_again(self, name: str, of: str) -> pathlib.Path:
        """Export the same files under a second name; to clients it is another file system."""
        path = self.root / name
        path.mkdir()
        run("mount", "--bind", str(self.root / of), str(path))
        self._share(path)
        return path

    def replace(self, name: str) -> None:
        """Have the same files on another file system, as after a restored backup."""
        old = self.root / name
        copy = self.root / f".{name}"
        copy.mkdir()
        run("mount", "-t", "tmpfs", "export", str(copy))
        shutil.copytree(old, copy, symlinks=True, dirs_exist_ok=True)
        _tool("exportfs", "-u", f"{_CLIENT}:{old}")
        run("umount", "--lazy", str(old))
        run("mount", "--bind", str(copy), str(old))
        self._share(old)

    def _export(self, path: pathlib.Path, *, writable: bool = False) -> None:
        run("mount", "-t", "tmpfs", "export", str(path))
        self._share(path, writable=writable)

    def _share(self, path: pathlib.Path, *, writable: bool = False) -> None:
        """Number 0 is the root of all; a new number makes what clients hold stale."""
        allowed = "rw" if writable else "ro"
        options = f"{allowed},fsid={self._exported},no_root_squash,no_subtree_check"
        self._exported += 1
        _tool("exportfs", "-o", options, f"{_CLIENT}:{path}")


def mount(name: str, target: pathlib.Path) -> None:
    """Mount an export as a client that writes does; nobody unmounts it but the guest's end."""
    target.mkdir()
    options = f"vers=4.2,hard,addr={ADDRESS},clientaddr={_CLIENT}"
    run("mount", "-i", "-t", "nfs4", "-o", options, f"{ADDRESS}:/{name}", str(target))


def run(*command: str) -> str:
    """Run a command; what it said."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise processes.LabError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def _ip(words: str) -> None:
    run("ip", *words.split())


def _inside(*command: str) -> str:
    return run("nsenter", f"--net=/run/netns/{_NAMESPACE}", *command)


def _tool(name: str, *arguments: str) -> str:
    """Run one of the server's programs with the libraries that came with it."""
    libraries = next((places.LAB / "nfs/usr/lib").glob("*/libc.so.6")).parent
    loader = next(libraries.glob("ld-linux-*"))
    program = places.LAB / "nfs/usr/sbin" / name
    return _inside(str(loader), "--library-path", str(libraries), str(program), *arguments)
