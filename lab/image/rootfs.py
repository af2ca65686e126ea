"""Make the root file system of our container image from Debian packages and wheels.

Nothing is installed: packages are unpacked, so no package manager, no shell of an
administrator and no perl is in the result, and no script of a package runs. Both
`make image` and the Dockerfile build it with this program, so that both are the
same. It needs Debian's apt and pip, and of Python only the standard library. The files
of another architecture than this machine's (`make release`) are unpacked in the same way;
only the modules in them are compiled by the Python of this machine's, which writes the same.

    python -m lab.image.rootfs FOLDER    # FOLDER/system and FOLDER/ours, the image's two layers

Beside `system` lie `system.debs.json` and `system.wheels.json`: what it is made of, for
the bill of materials.
"""

import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence

from lab import places
from lab.parts import debian

SUITE = "trixie"
WITHOUT_SECURITY = "none"
"""In place of a mirror of the security suite: for one that has none."""
PYTHON = "3.13"
ABI = "cp313"
SITE = f"usr/local/lib/python{PYTHON}/dist-packages"
USER = 65532

# Alibaba's SDK makes the image 7 MB larger, and nobody can add it to one that is made.
EXTRAS = ("acr",)
# Of this there is no wheel on PyPI, only pure Python as source: its wheel is made here.
SOURCES = ("alibabacloud-tea",)

# With all that they depend on.
PACKAGES = (
    f"python{PYTHON}",
    "erofs-utils",
    # `test`, `sleep` and `chroot` for the manifests, a shell for a person.
    "coreutils",
    "dash",
    # What mount.nfs is linked with.
    "libblkid1",
    "libcap2",
    "libgssapi-krb5-2",
    "libmount1",
    "libtirpc3t64",
    # What gRPC's wheel is linked with.
    "libstdc++6",
)
# Of a later release, and alone: it needs only a C library. Version 2 of cosign takes some bundles
# for verified that are not (GHSA-whqx-f9j3-ch6m), and does not read what version 3 signs.
NEWER_SUITE = "testing"
NEWER = ("cosign",)
# Of these only some files: what they depend on (perl, rpcbind, debconf) is for other uses.
PIECES = {
    "base-files": ("bin", "lib", "lib64", "sbin", "etc", "tmp", "run", "var", "usr/lib/os-release"),
    "nfs-common": ("usr/sbin/mount.nfs", "usr/sbin/umount.nfs"),
    "util-linux": ("usr/bin/nsenter",),
    "ca-certificates": ("usr/share/ca-certificates/mozilla",),
}
SURPLUS = (
    *(f"usr/share/{name}" for name in ("man", "info", "locale", "lintian", "bug")),
    *(f"usr/share/{name}" for name in ("bash-completion", "zoneinfo", "applications", "pixmaps")),
    *(f"usr/share/{name}" for name in ("python3", "ca-certificates", "debconf", "menu")),
    *(
        f"usr/lib/python{PYTHON}/{name}"
        for name in ("ensurepip", "idlelib", "pydoc_data", "turtle.py")
    ),
    "usr/lib/systemd",
    "usr/lib/udev",
    "usr/lib/init",
    "etc/init.d",
    "etc/default",
    "etc/apt",
    "etc/skel",
    "etc/update-motd.d",
    "var/lib/dpkg",
    "var/cache",
    f"{SITE}/bin",
)
# What only some architectures have of the pieces above.
PIECES_OF = {"lib64": "amd64"}
# Python's names of Debian's architectures.
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
# Where a runtime mounts what a container needs.
FOLDERS = ("dev", "proc", "sys", "root")
ACCOUNTS = {
    "etc/passwd": f"root:x:0:0:root:/root:/bin/sh\nuimgacc:x:{USER}:{USER}::/:/bin/false\n",
    "etc/group": f"root:x:0:\nuimgacc:x:{USER}:\n",
}
COMMAND = f"""#!/usr/bin/python{PYTHON} -P
import sys

from agent.cli.entry import main

sys.exit(main())
"""


def main() -> None:
    """Make both layers' files in the folder that the command line names."""
    os.umask(0o022)
    folder = pathlib.Path(sys.argv[1]).resolve()
    system(folder / "system")
    ours(folder / "ours", folder / "system")


def system(
    root: pathlib.Path,
    architecture: str = "",
    *,
    checkout: pathlib.Path = places.CHECKOUT,
    python: pathlib.Path | None = None,
) -> None:
    """Make what changes with Debian and with the lock: the larger layer.

    For another architecture than this machine's, `python` is such a layer of this machine's.
    """
    fresh(root)
    architecture = architecture or debian.architecture()
    unpack_packages(root, architecture)
    certificates = sorted((root / PIECES["ca-certificates"][0]).glob("*.crt"))
    bundle = root / "etc/ssl/certs/ca-certificates.crt"
    bundle.parent.mkdir(parents=True, exist_ok=True)
    bundle.write_bytes(b"".join(certificate.read_bytes() for certificate in certificates))
    # Where Debian's OpenSSL looks; in the package `openssl`, which has only programs else.
    (root / "usr/lib/ssl").mkdir(exist_ok=True)
    (root / "usr/lib/ssl/cert.pem").symlink_to("/etc/ssl/certs/ca-certificates.crt")
    for alias in ("mount.nfs4", "umount.nfs4"):
        (root / "usr/sbin" / alias).symlink_to(alias.removesuffix("4"))
    for name, text in ACCOUNTS.items():
        (root / name).write_text(text)
    install_locked(root, architecture, checkout)
    for surplus in (*(root / name for name in SURPLUS), *root.rglob("*.pyi")):
        remove(surplus)
    keep_copyrights(root / "usr/share/doc")
    for name in FOLDERS:
        (root / name).mkdir()
    for path in (path for path in root.rglob("*") if not path.is_symlink()):
        # Nothing in the image makes somebody else of who runs it (mount.nfs would).
        path.chmod(path.stat().st_mode & 0o1777)
    compile_modules(root, python or root, f"usr/lib/python{PYTHON}", SITE)


def unpack_packages(root: pathlib.Path, architecture: str) -> None:
    """Unpack Debian's packages, and note which they are."""
    machine = "" if architecture == debian.architecture() else architecture
    apt, newer = debian.apt(SUITE, machine), debian.apt(NEWER_SUITE, machine)
    debian.prepare_apt(debian.mirror(), SUITE, machine)
    add_security(apt, debian.apt_folder(SUITE, machine))
    debs = fresh(root.with_name("debs"))
    plan = debian.run(
        [*apt, "install", "--simulate", "--no-install-recommends", *PACKAGES],
        "the image's packages",
    )
    names = [*re.findall(r"^Inst (\S+)", plan, re.MULTILINE), *PIECES]
    debian.run([*apt, "download", *dict.fromkeys(names)], "the image's packages", debs)
    debian.prepare_apt(debian.mirror(), NEWER_SUITE, machine)
    debian.run([*newer, "download", *NEWER], "the image's newer packages", debs)
    packages = [described(package) for package in sorted(debs.glob("*.deb"))]
    root.with_name(f"{root.name}.debs.json").write_text(json.dumps(packages, indent=1))
    for name, pieces in PIECES.items():
        (package,) = debs.glob(f"{name}_*.deb")
        here = [piece for piece in pieces if PIECES_OF.get(piece, architecture) == architecture]
        unpack_pieces(package, root, (*here, f"usr/share/doc/{name}/copyright"))
        package.unlink()
    for package in sorted(debs.glob("*.deb")):
        debian.run(["dpkg", "-x", str(package), str(root)], f"unpacking {package.name}")


def add_security(apt: list[str], folder: pathlib.Path) -> None:
    """Have apt know, beside a suite's packages, what Debian mended since its point release."""
    uri = security_mirror()
    if uri == WITHOUT_SECURITY:
        return
    with (folder / "sources.list").open("a") as sources:
        sources.write(f"deb [signed-by={debian.KEYRING}] {uri} {SUITE}-security main\n")
    debian.run([*apt, "update"], f"the index of {SUITE}-security at {uri} (see SECURITY.md)")


def security_mirror() -> str:
    """Return the mirror of Debian's security suites, without a trailing slash, or "none".

    That of UIMGACC_DEBIAN_SECURITY_MIRROR, of this machine's own apt sources if it is a Debian and
    no other mirror was chosen, or beside the other mirror.
    """
    chosen = os.environ.get("UIMGACC_DEBIAN_SECURITY_MIRROR", "")
    if not chosen and not os.environ.get("UIMGACC_DEBIAN_MIRROR"):
        targets = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(LABEL)"]
        for line in debian.output([*targets, "Created-By: Packages"]).splitlines():
            uri, _, label = line.partition(" ")
            if label == "Debian-Security":
                chosen = uri
    return (chosen or f"{debian.mirror()}-security").rstrip("/")


def keep_copyrights(folder: pathlib.Path) -> None:
    """Remove all documentation but the licences, which go where the programs go."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.name != "copyright" and path.parent != folder:
            path.unlink()


def described(package: pathlib.Path) -> dict[str, str]:
    """Return what a bill of materials says of a package."""
    fields = "${Package}\n${Version}\n${Architecture}\n${source:Package}\n${source:Version}"
    said = debian.run(["dpkg-deb", "-W", f"--showformat={fields}", str(package)], package.name)
    names = ("name", "version", "architecture", "source", "source_version")
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    return {**dict(zip(names, said.splitlines(), strict=True)), "sha256": digest}


def ours(
    root: pathlib.Path,
    below: pathlib.Path,
    *,
    checkout: pathlib.Path = places.CHECKOUT,
    version: str = "",
) -> None:
    """Make what changes with our own code: the small layer, the same for all architectures.

    `below` is the other layer for this machine; `version` is another than that of pyproject.toml.
    """
    fresh(root)
    # A copy: setuptools leaves what it builds beside the sources.
    source = fresh(root.with_name("source"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(checkout / name, source)
    if version:
        project = source / "pyproject.toml"
        line = re.compile(r'^version = ".*"$', re.MULTILINE)
        project.write_text(line.sub(f'version = "{version}"', project.read_text(), count=1))
    shutil.copytree(
        checkout / "agent", source / "agent", ignore=shutil.ignore_patterns("__pycache__")
    )
    pip("wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(source), str(source))
    (wheel,) = source.glob("uimgacc-*.whl")
    install(root, "--no-deps", str(wheel))
    forget_origins(root)
    remove(root / SITE / "bin")
    command = root / "usr/local/bin/uimgacc"
    command.parent.mkdir(parents=True)
    command.write_text(COMMAND)
    command.chmod(0o755)
    compile_modules(root, below, f"{SITE}/agent")


def install_locked(root: pathlib.Path, architecture: str, checkout: pathlib.Path) -> None:
    """Install what the lock names, as wheels, and nothing else, and note which they are."""
    locked = runtime(checkout)
    files = {}
    for kind in ("requirements", "sources"):
        files[kind] = root.with_name(f"{kind}.txt")
        chosen = [text for name, text in locked.items() if (name in SOURCES) == (kind == "sources")]
        files[kind].write_text("".join(chosen))
    report = root.with_name(f"{root.name}.wheels.json")
    options = ["--no-deps", "--require-hashes", f"--report={report}"]
    install(root, *options, "-r", str(files["requirements"]), architecture=architecture)
    wheels = fresh(root.with_name("wheels"))
    options = ["--no-deps", "--no-build-isolation", "--require-hashes", "-w", str(wheels)]
    pip("wheel", "-q", *options, "-r", str(files["sources"]))
    install(root, "--no-deps", *map(str, sorted(wheels.glob("*-none-any.whl"))))
    forget_origins(root)


def runtime(checkout: pathlib.Path) -> dict[str, str]:
    """Return the part of the lock that the product needs: all but what only tests need."""
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"]]
    for extra in EXTRAS:
        lines += project["optional-dependencies"][extra]
    wanted = {canonical(re.split(r"[<>=\[; ]", line)[0]) for line in lines}
    entries = re.split(
        r"^(?=[a-z0-9])", (checkout / "requirements.lock").read_text(), flags=re.MULTILINE
    )
    blocks = {canonical(entry.partition("==")[0]): entry for entry in entries if "==" in entry}
    needed_by = {
        name: {
            canonical(user)
            for user in re.findall(r"^    #(?: via)? +([\w.-]+)$", entry, re.MULTILINE)
        }
        for name, entry in blocks.items()
    }
    while more := {name for name, users in needed_by.items() if users & wanted} - wanted:
        wanted |= more
    if missing := wanted - set(blocks):
        raise debian.PartError(f"not in requirements.lock: {', '.join(sorted(missing))}")
    return {name: blocks[name] for name in sorted(wanted)}


def canonical(name: str) -> str:
    """Return a distribution's name as the lock spells it."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def forget_origins(root: pathlib.Path) -> None:
    """Remove where wheels that were made here lay: the path of a checkout."""
    for note in (root / SITE).glob("*.dist-info/direct_url.json"):
        note.unlink()
        record = note.with_name("RECORD")
        lines = record.read_text().splitlines(keepends=True)
        record.write_text("".join(line for line in lines if "/direct_url.json," not in line))


def install(root: pathlib.Path, *arguments: str, architecture: str = "") -> None:
    """Install wheels for the image's Python, which need not be the one that runs this."""
    machine = MACHINES[architecture or debian.architecture()]
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(5, 42)]
    platforms += [f"manylinux2014_{machine}", f"manylinux2010_{machine}"]
    # pip takes the first that fits: the newest, as it would on the image's own system.
    options = [f"--platform={name}" for name in reversed(platforms)]
    options += ["--only-binary=:all:", f"--python-version={PYTHON}", "--implementation=cp"]
    options += [f"--abi={ABI}", "--abi=abi3", "--abi=none", "--no-compile"]
    pip("install", "-q", "--target", str(root / SITE), *options, *arguments)


def pip(*arguments: str) -> None:
    """Run pip of the Python that runs this."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    debian.run(command, "the image's wheels")


def compile_modules(root: pathlib.Path, python: pathlib.Path, *places_: str) -> None:
    """Compile modules ahead: nothing is written in a container. Files say no time, only content.

    `python` is a root of this machine's architecture: its Python does it, with its own loader.
    """
    libraries = python / "usr/lib" / debian.TRIPLETS[debian.architecture()]
    loader = next(libraries.glob("ld-linux-*.so.*"))
    program = python / f"usr/bin/python{PYTHON}"
    command = [str(loader), "--library-path", str(libraries), str(program), "-S", "-P"]
    command += ["-m", "compileall", "-q", "-f", "--invalidation-mode=unchecked-hash"]
    # What a traceback shows is where a module lies in the image.
    command += ["-s", str(root), "-p", "/", *(str(root / place) for place in places_)]
    # It leaves nothing of its own, with a time in it, and sets are in the same order each time.
    own = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0", "PYTHONHOME": f"{python}/usr"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, check=False, env={**os.environ, **own}
    )
    if done.returncode != 0:
        raise debian.PartError(f"compiling the image's modules: {done.stdout}{done.stderr}")


def unpack_pieces(package: pathlib.Path, root: pathlib.Path, pieces: Sequence[str]) -> None:
    """Unpack some files or folders of a package."""
    tar = subprocess.Popen(["dpkg", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE)
    names = [f"./{piece}" for piece in pieces]
    done = subprocess.run(["tar", "-x", "-C", str(root), *names], stdin=tar.stdout, check=False)
    if tar.wait() != 0 or done.returncode != 0:
        raise debian.PartError(f"{package.name} has not all of {', '.join(pieces)}")


def fresh(folder: pathlib.Path) -> pathlib.Path:
    """Return an empty folder of that name."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def remove(path: pathlib.Path) -> None:
    """Remove a file or a folder; one that is not there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    try:
        main()
    except debian.PartError as error:
        raise SystemExit(f"lab: {error}") from None
