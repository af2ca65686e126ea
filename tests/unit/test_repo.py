"""What must hold of the repository as a whole."""

import ast
import collections
import contextlib
import filecmp
import importlib.metadata
import pathlib
import re
import sys
import tomllib
from collections.abc import Iterator

from agent._proto import generate

ROOT = pathlib.Path(__file__).parents[2]
AGENT = ROOT / "agent"
MODULES = [
    path
    for path in AGENT.rglob("*.py")
    if path.name != "__init__.py" and not path.name.endswith(("_pb2.py", "_pb2_grpc.py"))
]


def test_the_generated_stubs_are_those_of_the_proto_files(tmp_path: pathlib.Path) -> None:
    (tmp_path / "agent" / "_proto").mkdir(parents=True)
    generate.generate(ROOT, tmp_path)
    made = [path.relative_to(tmp_path) for path in tmp_path.rglob("*_pb2*.py*")]

    assert made
    _, different, missing = filecmp.cmpfiles(ROOT, tmp_path, made, shallow=False)
    assert (different, missing) == ([], [])


def test_a_module_s_name_is_used_once() -> None:
    names = collections.Counter(path.name for path in MODULES)

    assert [name for name, count in names.items() if count > 1] == []


def test_a_folder_has_at_most_twelve_modules() -> None:
    tools = [path for folder in ("lab", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    modules = [*MODULES, *(path for path in tools if path.name != "__init__.py")]
    sizes = collections.Counter(path.parent.relative_to(ROOT) for path in modules)

    assert {str(folder): size for folder, size in sizes.items() if size > 12} == {}


def test_a_module_has_at_most_five_hundred_lines() -> None:
    sizes = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in MODULES}

    assert {path: size for path, size in sizes.items() if size > 500} == {}


def constructors(path: pathlib.Path) -> Iterator[tuple[str, ast.FunctionDef]]:
    """The constructors that are written out in a module, by their classes."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef):
            for each in node.body:
                if isinstance(each, ast.FunctionDef) and each.name == "__init__":
                    yield node.name, each


def test_a_constructor_has_at_most_six_arguments() -> None:
    """What belongs together is one value."""
    sizes = {
        f"{path.relative_to(ROOT)}: {name}": len(made.args.args[1:] + made.args.kwonlyargs)
        for path in MODULES
        for name, made in constructors(path)
    }

    assert len(sizes) > 100
    assert {name: size for name, size in sizes.items() if size > 6} == {}


def texts(path: pathlib.Path) -> Iterator[str]:
    """The docstrings and other constant texts of a module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def exists(name: str) -> bool:
    """Whether there is a package, a module, or something in a module, of a dotted name."""
    parts = name.split(".")
    while parts:
        place = ROOT.joinpath(*parts)
        if place.is_dir():
            return name == ".".join(parts)
        if place.with_suffix(".py").is_file():
            inside = name.removeprefix(".".join(parts)).lstrip(".").partition(".")[0]
            return not inside or bool(
                re.search(rf"\b{inside}\b", place.with_suffix(".py").read_text())
            )
        parts.pop()
    return False


def test_what_docstrings_name_in_the_package_exists() -> None:
    """A module that is moved or renamed is named anew where others speak of it."""
    unknown = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in AGENT.rglob("*.py")
        if "_pb2" not in path.name
        for text in texts(path)
        for name in re.findall(r"\bagent(?:\.[a-z]\w*)+(?:\.[A-Z]\w*)?", text)
        if not exists(name)
    ]

    assert unknown == []


def test_a_package_s_docstring_names_only_modules_that_it_has() -> None:
    unknown = [
        f"{path.parent.relative_to(ROOT)}: {name}"
        for path in AGENT.rglob("__init__.py")
        for name in re.findall(r"`([a-z_]+)`", path.read_text())
        if not path.with_name(name).is_dir() and not path.with_name(f"{name}.py").is_file()
    ]

    assert unknown == []


def imported() -> Iterator[str]:
    """The top-level packages that the package imports, anywhere in a module."""
    for path in AGENT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def distribution(requirement: str) -> str:
    return canonical(re.split(r"[<>=!~\[; (]", requirement, maxsplit=1)[0])


def needed(*, extra: str = "") -> set[str]:
    """The distributions that the package, or its extra, declares."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = project["optional-dependencies"][extra] if extra else project["dependencies"]
    return {distribution(text) for text in texts}


def with_their_own(names: set[str]) -> set[str]:
    """Distributions and those that they need in turn."""
    waiting, known = list(names), set()
    while waiting:
        name = waiting.pop()
        if name not in known:
            known.add(name)
            # Some are only for another Python, and not there.
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                texts = importlib.metadata.requires(name) or ()
                waiting += [distribution(text) for text in texts if "extra ==" not in text]
    return known


def test_what_is_declared_is_imported_and_what_is_imported_is_declared() -> None:
    by_package = importlib.metadata.packages_distributions()
    declared = needed() | needed(extra="acr")
    used = {"tzdata"}  # zoneinfo reads it
    for module in imported():
        top = module.partition(".")[0]
        if top not in sys.stdlib_module_names and top != "agent":
            # Namespace packages such as `google` belong to several distributions.
            names = {canonical(name) for name in by_package.get(top, [top])}
            used |= names & declared or names

    assert declared - used == set(), "declared and not used"
    # Alibaba's SDK is one thing in many distributions.
    assert used - declared - with_their_own(needed(extra="acr")) == set(), "used and not declared"


ONE_PLACE = {
    # What is written -> the modules that may write it; all others call these.
    r"\bfromisoformat\(|\.strftime\(\"%Y-%m-%dT|datetime\.now\(": {"model/times.py"},
    r"\bAppRunner\(|\bTCPSite\(": {"kits/web/listener.py"},
    # A wait before a first try, and the length of a watch, are no retries.
    r"\brandom\.uniform\(": {
        "kits/aio/backoff.py",
        "clients/kube/rest_client.py",
        "node/pods/cache_requests.py",
    },
    r"\blen\(\w+(\.\w+)*\) - 1\)\]": {"kits/aio/backoff.py"},
    r"argparse\.ArgumentParser\(": {"kits/flags.py"},
    r"0xE0F5E1E2|e2\\xe1": {"model/erofs/superblock.py"},
    r"erofs-utils\\\)": {"model/erofs/mkfs_release.py"},
    r"/runtime\.v1\.RuntimeService/Status": {"clients/containerd/rpc.py"},
    r"\"[KMG]iB\"|\"[kMG]B\"": {"kits/units.py"},
}


def test_times_retries_listeners_flags_and_units_have_one_place_each() -> None:
    elsewhere = [
        f"{path.relative_to(AGENT)}: {pattern}"
        for pattern, places in ONE_PLACE.items()
        for path in MODULES
        if str(path.relative_to(AGENT)) not in places
        if re.search(pattern, path.read_text())
    ]

    assert elsewhere == []
