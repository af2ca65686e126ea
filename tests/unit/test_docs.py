"""The documentation says what is there: links, files, commands.

What a page shows is also tried elsewhere: kustomizations by tests/manifests, the
status by tests/unit/node/report, metrics and alerts by their own tests.
"""

import pathlib
import re
import shlex
import subprocess
import textwrap

import pytest
import typer
import yaml

from agent.cli import commands

CHECKOUT = pathlib.Path(__file__).parents[2]
PAGES = sorted(
    [
        CHECKOUT / name
        for name in (
            "README.md",
            "README.zh-CN.md",
            "CONTRIBUTING.md",
            "CHANGELOG.md",
            "SECURITY.md",
        )
    ]
    + list((CHECKOUT / "docs").rglob("*.md"))
)
CODE_MAP = CHECKOUT / "docs/internals/code-map.md"
ROLES = {"build", "controller"}
"""Commands that the manifests run, whose flags are settings."""


def named(page: pathlib.Path) -> str:
    """The page's name in a test's name."""
    return str(page.relative_to(CHECKOUT))


def anchors(page: pathlib.Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_within_the_checkout_leads_somewhere(page: pathlib.Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page

        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked), target


def blocks(page: pathlib.Path, language: str) -> list[str]:
    """The page's blocks of a language, without what they are indented by."""
    pattern = rf"^( *)```{language}\n(.*?)^ *```"
    found = re.findall(pattern, page.read_text(), re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(text) for _, text in found]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_block_can_be_read_by_what_it_is_for(page: pathlib.Path) -> None:
    for text in blocks(page, "yaml"):
        assert list(yaml.safe_load_all(text)) != []
    for text in blocks(page, "sh"):
        script = re.sub(r"^\$ ", "", text, flags=re.MULTILINE)
        done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)

        assert done.returncode == 0, done.stderr


def test_every_page_is_in_the_index() -> None:
    index = CHECKOUT / "docs/README.md"
    linked = {
        (index.parent / target.partition("#")[0]).resolve()
        for target in re.findall(r"\]\(([^)\s]+)\)", index.read_text())
    }

    assert linked >= {page for page in PAGES if page.is_relative_to(index.parent)} - {index}


def test_every_file_that_the_code_map_names_is_there() -> None:
    files = re.findall(r"`((?:agent|manifests|tests|dashboards)/[^`\s]*)`", CODE_MAP.read_text())

    assert len(files) > 40
    assert [each for each in files if not (CHECKOUT / each).exists()] == []


def shown() -> list[tuple[str, str]]:
    """Each `uimgacc ...` of the pages, in code or in a block of commands: page and words."""
    found = []
    for page in PAGES:
        text = page.read_text()
        blocks = re.findall(r"^ *```(?:sh|text)\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
        lines = [
            line.strip().removeprefix("$ ")
            for block in blocks
            for line in block.replace("\\\n", " ").splitlines()
        ]
        lines += re.findall(r"`(uimgacc [^`]+)`", text)
        found += [(named(page), line) for line in lines if line.startswith("uimgacc ")]
    return found


def test_every_command_that_is_shown_is_there_with_its_flags() -> None:
    root = typer.main.get_command(commands.app)
    wrong = []
    for page, line in shown():
        words = shlex.split(line, comments=True)[1:]
        command = root
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]  # type: ignore[attr-defined]
        if command is root and words and words[0] in ROLES | {"...", "--help", "COMMAND", "ROLE"}:
            continue
        flags = {flag for each in command.params for flag in (*each.opts, *each.secondary_opts)}
        given = {word.partition("=")[0] for word in words if re.fullmatch(r"--?[a-z].*", word)}
        if command is root or (command.params and not given <= flags | {"--help"}):
            wrong.append(f"{page}: {line}")

    assert wrong == []


UNCLEAR = re.compile(r"\b(anew|for ever|[Ww]e|[Oo]ur|us)\b")
"""Beside those of tests/unit/test_words.py: what people read names uimgacc and its parts."""


@pytest.mark.parametrize(
    "page",
    [
        *PAGES,
        *sorted((CHECKOUT / "manifests").rglob("*.yaml")),
        CHECKOUT / "dashboards/uimgacc.rules.yaml",
    ],
    ids=named,
)
def test_the_words_are_those_of_the_field(page: pathlib.Path) -> None:
    text = re.sub(r"<!-- settings of .*?<!-- end -->", "", page.read_text(), flags=re.DOTALL)
    lines = [line for line in text.splitlines() if UNCLEAR.search(line)]

    assert lines == []


def test_every_event_is_in_the_reference() -> None:
    words = "ImageCache|ImageAcceleration|SuccessfulHit|Build|Deletion|OriginNot|Invalid"
    pattern = rf'"((?:{words})[A-Z]\w+|Evicted|Expired)"'
    places = [CHECKOUT / "agent" / name for name in ("matching", "node", "control")]
    emitted = {
        reason
        for place in places
        for module in place.rglob("*.py")
        for reason in re.findall(pattern, module.read_text())
    }
    page = (CHECKOUT / "docs/reference/events.md").read_text()

    assert len(emitted) > 15
    assert {reason for reason in emitted if f"`{reason}`" not in page} == set()
