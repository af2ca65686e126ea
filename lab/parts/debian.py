"""Gather the real parts that distributions carry in too old a version, or not at all.

They come from Debian's archive with a private apt configuration and are only
unpacked (`dpkg -x`) under the lab's folder: the machine's own packages and apt
lists stay as they are, and no service is started. The mirror is the machine's
own if it is a Debian, UIMGACC_DEBIAN_MIRROR if set, else debootstrap's.
`python -m lab.parts.debian demo` gathers what the demo needs, and no more.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence

from lab import places

SUITES = ("trixie", "testing")
STAMP = places.LAB / "parts.json"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
TRIPLETS = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}


class PartError(Exception):
    """A part cannot be had; the message names the package and the reason."""


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """One folder of the lab, filled from one Debian package."""

    folder: str
    suite: str
    package: str
    binaries: tuple[str, ...] = ()
    """Programs that must run afterwards, below the folder."""
    version: tuple[str, ...] = ("--version",)
    libraries: bool = False
    """Take the dependencies too, to run with that suite's own loader."""
    linked: bool = True
    """Link the binaries into `bin/`; not for what exists in two versions."""
    demo: bool = False
    """Whether the demo needs it."""


CONTAINERD = ("usr/bin/containerd", "usr/bin/ctr", "usr/bin/containerd-shim-runc-v2")
EROFS = ("usr/bin/mkfs.erofs", "usr/bin/dump.erofs", "usr/bin/fsck.erofs")
PARTS: tuple[Part, ...] = (
    Part("containerd-1.7", "trixie", "containerd", CONTAINERD, linked=False),
    Part("containerd-2", "testing", "containerd", CONTAINERD, linked=False, demo=True),
    Part("soci", "testing", "soci-snapshotter", ("usr/bin/soci", "usr/bin/soci-snapshotter-grpc")),
    Part("erofs", "trixie", "erofs-utils", EROFS, ("-V",), libraries=True, demo=True),
    Part("docker-registry", "trixie", "docker-registry", ("usr/bin/docker-registry",), demo=True),
    # Version 3, which reads the signatures of 2 as well.
    Part("cosign", "testing", "cosign", ("usr/bin/cosign",), ("version",)),
    Part("prometheus", "trixie", "prometheus", ("usr/bin/prometheus",)),
    Part("promtool", "trixie", "promtool", ("usr/bin/promtool",)),
    Part("kubectl", "testing", "kubectl", ("usr/bin/kubectl",), ("version", "--client")),
    Part("cri-proto", "trixie", "golang-github-kubernetes-cri-api-dev", demo=True),
    # A pod in a user namespace has a network of its own, and containerd 2 refuses it a runc < 1.2.
    Part("cni", "trixie", "containernetworking-plugins"),
    Part("runc", "testing", "runc", libraries=True),
    Part("patchelf", "trixie", "patchelf", ("usr/bin/patchelf",), libraries=True),
    # For lab.guest, with the kernel below.
    Part("nfs", "trixie", "nfs-kernel-server", libraries=True),
    # Hash trees of layers are compared with its own.
    Part("cryptsetup", "trixie", "cryptsetup-bin", ("usr/sbin/veritysetup",), libraries=True),
    # What runs it is in lab.web.browser.
    Part("chromium", "trixie", "chromium-headless-shell", libraries=True),
)
if os.uname().machine == "x86_64":
    # There is no User Mode Linux for others.
    PARTS += (Part("uml", "testing", "user-mode-linux"),)
# What the programs need not.
SURPLUS = ("usr/share/doc", "usr/share/man", "usr/share/prometheus", "usr/share/locale")


def main() -> None:
    """Gather what is missing and print a table of what runs."""
    started = time.monotonic()
    there = gathered()
    wanted = [part for part in PARTS if part.demo or sys.argv[1:] != ["demo"]]
    missing = [part for part in wanted if part.folder not in there]
    if not missing:
        print("lab: parts are there")
        return
    if architecture() not in TRIPLETS:
        raise SystemExit(f"lab: no parts known for the architecture {architecture()}")
    try:
        gather(mirror(), missing)
        table = versions(missing)
        generate_cri()
    except PartError as error:
        raise SystemExit(f"lab: {error}") from None
    folders = sorted(there | {part.folder for part in missing})
    STAMP.write_text(json.dumps({"key": key(), "folders": folders}))
    print(table)
    print(f"lab: parts gathered in {time.monotonic() - started:.0f} s")


def key() -> str:
    """Return what changes when this module does: then all parts are gathered anew."""
    return hashlib.sha256(pathlib.Path(__file__).read_bytes()).hexdigest()


def gathered() -> set[str]:
    """Return the folders of the parts that are there, as this module would gather them."""
    try:
        found = json.loads(STAMP.read_text())
    except (FileNotFoundError, ValueError):
        return set()
    return set(found["folders"]) if found["key"] == key() else set()


def architecture() -> str:
    """Return Debian's name of this machine's architecture."""
    return output(["dpkg", "--print-architecture"]).strip()


def mirror() -> str:
    """Return the Debian mirror to use, without a trailing slash."""
    chosen = os.environ.get("UIMGACC_DEBIAN_MIRROR") or own_mirror() or default_mirror()
    return chosen.rstrip("/")


def own_mirror() -> str | None:
    """Return the mirror of this machine's own apt sources, if it is a Debian."""
    targets = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(ORIGIN) $(CODENAME)"]
    for line in output([*targets, "Created-By: Packages"]).splitlines():
        uri, _, rest = line.partition(" ")
        if re.fullmatch(r"Debian \w+", rest):
            return uri
    return None


def default_mirror() -> str:
    """Return the mirror that debootstrap would use for a Debian suite."""
    program = shutil.which("debootstrap") or "/usr/sbin/debootstrap"
    found = re.search(r'^DEF_MIRROR="(.+)"', pathlib.Path(program).read_text(), re.MULTILINE)
    if found is None:
        raise PartError("no Debian mirror known: set UIMGACC_DEBIAN_MIRROR")
    return found[1]


def gather(uri: str, missing: Sequence[Part]) -> None:
    """Download and unpack parts, suites and parts side by side."""
    suites = [suite for suite in SUITES if any(part.suite == suite for part in missing)]
    print(f"lab: gathering {len(missing)} parts from Debian {' and '.join(suites)}")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(lambda suite: prepare_apt(uri, suite), suites))
        list(pool.map(lambda suite: download(suite, missing), suites))
        list(pool.map(unpack, missing))
    places.BIN.mkdir(parents=True, exist_ok=True)
    for part in missing:
        publish(part)


def apt(suite: str, machine: str = "") -> list[str]:
    """Return apt-get with options that keep it off the machine's own state.

    `machine` is another architecture than this machine's, in Debian's words.
    """
    folder = apt_folder(suite, machine)
    options = {
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::State": folder,
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        # Mirrors that are kept at a day of the past serve a lab as well as any.
        "Acquire::Check-Valid-Until": "false",
        # The sandbox user may not enter the folder; signatures are checked all the same.
        "APT::Sandbox::User": "root",
        "APT::Get::Assume-Yes": "true",
        **({"APT::Architecture": machine, "APT::Architectures": machine} if machine else {}),
    }
    return ["apt-get", "-q", *(f"-o{name}={value}" for name, value in options.items())]


def apt_folder(suite: str, machine: str) -> pathlib.Path:
    """Return where apt keeps what it knows of a suite, for each architecture apart."""
    return places.LAB / "apt" / (f"{suite}-{machine}" if machine else suite)


def prepare_apt(uri: str, suite: str, machine: str = "") -> None:
    """Write the private configuration of a suite and read its index."""
    folder = apt_folder(suite, machine)
    (folder / "lists/partial").mkdir(parents=True, exist_ok=True)
    (folder / "cache/archives/partial").mkdir(parents=True, exist_ok=True)
    # An empty status file: nothing is installed, so dependencies are all listed.
    (folder / "status").write_text("")
    (folder / "sources.list").write_text(f"deb [signed-by={KEYRING}] {uri} {suite} main\n")
    run([*apt(suite, machine), "update"], f"the index of Debian {suite} at {uri}")


def download(suite: str, missing: Sequence[Part]) -> None:
    """Fetch the packages of those parts that are of a suite."""
    for part in (part for part in missing if part.suite == suite):
        folder = packages(part)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        names = [part.package, *(dependencies(part) if part.libraries else [])]
        run(
            [*apt(suite), "download", *names],
            f"the package {part.package} of Debian {suite}",
            folder,
        )


def dependencies(part: Part) -> list[str]:
    """Return the names of all packages that the part's package needs."""
    arguments = ["install", "--simulate", "--no-install-recommends", part.package]
    plan = run([*apt(part.suite), *arguments], f"the dependencies of {part.package}")
    return [name for name in re.findall(r"^Inst (\S+)", plan, re.MULTILINE) if name != part.package]


def packages(part: Part) -> pathlib.Path:
    """Return where the downloaded packages of a part are."""
    return places.LAB / "apt/packages" / part.folder


def unpack(part: Part) -> None:
    """Unpack a part's packages beside its folder, then put them in its place."""
    new = places.LAB / f"{part.folder}.new"
    shutil.rmtree(new, ignore_errors=True)
    for package in sorted(packages(part).glob("*.deb")):
        run(["dpkg", "-x", str(package), str(new)], f"unpacking {package.name}")
    for surplus in SURPLUS:
        shutil.rmtree(new / surplus, ignore_errors=True)
    shutil.rmtree(places.LAB / part.folder, ignore_errors=True)
    new.rename(places.LAB / part.folder)
    shutil.rmtree(packages(part))


def publish(part: Part) -> None:
    """Put a part's programs into `bin/`, through their own loader if they need it."""
    for binary in part.binaries:
        target = places.BIN / pathlib.PurePath(binary).name
        if not part.linked:
            continue
        target.unlink(missing_ok=True)
        if part.libraries:
            target.write_text(wrapper(part, binary))
            target.chmod(0o755)
        else:
            target.symlink_to(pathlib.Path("..") / part.folder / binary)


def wrapper(part: Part, binary: str) -> str:
    """Return a script that runs a program with the libraries that came with it.

    Their libc is newer than an older machine's, so the loader must be theirs too.
    Paths are relative to the script, which so survives a moved checkout, and it
    forks nothing: the caller waits for, and may kill, the program itself.
    """
    loader = next((places.LAB / part.folder).glob("usr/lib*/ld-linux-*.so.*"))
    within = loader.relative_to(places.LAB)
    libraries = f"{part.folder}/usr/lib/{TRIPLETS[architecture()]}"
    return (
        "#!/bin/sh\n"
        "lab=${0%/*}/..\n"
        f'exec "$lab/{within}" --library-path "$lab/{libraries}" '
        f'"$lab/{part.folder}/{binary}" "$@"\n'
    )


def versions(found: Sequence[Part]) -> str:
    """Run every program of these parts once and return a table of their versions."""
    lines = []
    for part in found:
        for binary in part.binaries:
            program = places.BIN / pathlib.PurePath(binary).name
            if not part.linked:
                program = places.LAB / part.folder / binary
            option = ("-v",) if program.name == "containerd-shim-runc-v2" else part.version
            said = run([str(program), *option], f"{binary} of the package {part.package}")
            number = re.search(r"\d+\.\d+[\w.+~-]*", said)
            lines.append((part.folder, program.name, number[0] if number else "runs"))
    lines += [("machine", name, own_version(name)) for name in ("runc", "debootstrap")]
    return "\n".join(f"  {part:<16} {name:<26} {number}" for part, name, number in lines)


def own_version(name: str) -> str:
    """Return the version of one of the machine's own programs."""
    said = run([name, "--version"], f"the package {name}")
    number = re.search(r"\d+\.\d+[\w.+~-]*", said)
    return number[0] if number else "runs"


def generate_cri() -> None:
    """Compile the CRI's own api.proto, as Debian carries it, to Python modules.

    What it says to one generator for Go alone is left out: it does not change the
    wire, and would need that generator's files.
    """
    source = next((places.LAB / "cri-proto").glob("**/runtime/v1/api.proto"))
    text = re.sub(r"^(import|option) .*gogo.*\n", "", source.read_text(), flags=re.MULTILINE)
    text = re.sub(r"\s*\[\(gogoproto\.[^\]]*\]", "", text)
    places.CRI_API.mkdir(exist_ok=True)
    (places.CRI_API / "runtime_v1.proto").write_text(text)
    arguments = [f"-I{places.CRI_API}", f"--python_out={places.CRI_API}"]
    arguments += [f"--grpc_python_out={places.CRI_API}", "runtime_v1.proto"]
    run([sys.executable, "-m", "grpc_tools.protoc", *arguments], "the CRI's Python modules")


def run(command: list[str], what: str, folder: pathlib.Path | None = None) -> str:
    """Run a command and return what it printed; a failure says what was wanted."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=600,
            check=True,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"},
        )
    except FileNotFoundError as error:
        raise PartError(f"cannot get {what}: {error.filename} is not installed") from error
    except subprocess.CalledProcessError as error:
        said = "\n".join((error.stdout + error.stderr).strip().splitlines()[-8:])
        raise PartError(f"cannot get {what}: {' '.join(command[:1])} said\n{said}") from error
    return done.stdout + done.stderr


def output(command: list[str]) -> str:
    """Return the standard output of a command that may fail."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


if __name__ == "__main__":
    main()
