"""The Chinese pages say what the English ones say now.

Of each section the parts that are not prose must be the same: tables, code, names in code, links,
figures. Prose that has changed in English is noticed by its digest, which
`UIMGACC_GOLDEN=write pytest tests/unit/test_translations.py` writes once it is translated.
"""

import calendar
import collections
import hashlib
import json
import os
import pathlib
import re
from typing import NamedTuple

import pytest

CHECKOUT = pathlib.Path(__file__).parents[2]
TRANSLATED = CHECKOUT / "tests/golden/translated.json"
"""Of each English page the digests of the sections as they were translated."""
PAGES = {
    "README.md": "README.zh-CN.md",
    **{
        f"docs/clouds/{name}.md": f"docs/zh-CN/clouds/{name}.md"
        for name in ("alibaba", "tencent", "ucloud")
    },
}
_ONLY_CHINESE = "[English](README.md) | **简体中文**\n"
_ONLY_ENGLISH = "**English** | [简体中文](README.zh-CN.md)\n"


class Section(NamedTuple):
    """A heading's level and text, and what stands below it up to the next one."""

    level: int
    heading: str
    text: str


def sections(page: str) -> list[Section]:
    """The sections of a page. A `#` within a block of code begins none."""
    text = (CHECKOUT / page).read_text()
    text = text.replace(_ONLY_CHINESE, "").replace(_ONLY_ENGLISH, "")
    found: list[tuple[int, str, list[str]]] = []
    is_code = False
    for line in text.splitlines():
        is_code ^= line.startswith("```")
        if not is_code and (heading := re.fullmatch(r"(#+) (.*)", line)):
            found.append((len(heading[1]), heading[2], []))
        else:
            found[-1][2].append(line)
    return [Section(level, heading, "\n".join(lines)) for level, heading, lines in found]


def blocks(text: str) -> list[str]:
    """The blocks of code, without comments, and without the labels of a diagram."""
    found = []
    for language, code in re.findall(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        labels = r"(\[\(?).*?(\)?\])|-- .*? -->" if language == "mermaid" else "(?!)()()"
        without = re.sub(labels, r"\1\2", code)
        found.append(re.sub(r"\s+#.*|^#.*", "", without, flags=re.MULTILINE))
    return found


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def tables(text: str) -> list[int]:
    """How many columns each row of the tables has."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return [row.count("|") for row in rows]


def names(text: str) -> collections.Counter[str]:
    return collections.Counter(re.findall(r"`([^`]+)`", prose(text)))


def links(page: str, text: str) -> collections.Counter[str]:
    """What the links of a page lead to, as files of the English documentation."""
    english = {translated: original for original, translated in PAGES.items()}
    found: collections.Counter[str] = collections.Counter()
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
        path, _, anchor = target.partition("#")
        if not path:
            found["a section of the page"] += 1
            continue
        linked = (CHECKOUT / page).parent.joinpath(path).resolve()
        name = str(linked.relative_to(CHECKOUT))
        name = english.get(name, name)
        # Where a page is translated, its anchors are, too.
        found[name if name in PAGES else f"{name}#{anchor}"] += 1
    return found


def figures(text: str) -> collections.Counter[str]:
    """The numbers in digits. August 2026 is written 2026 年 8 月."""
    text = re.sub(r"`[^`]+`|\]\([^)]+\)", " ", prose(text))
    for number, month in enumerate(calendar.month_name):
        text = re.sub(rf"\b{month} (?=\d{{4}})", f"{number} ", text) if month else text
    return collections.Counter(re.findall(r"\d[\d.,]*\d|\d", text))


@pytest.mark.parametrize(("page", "translated"), PAGES.items())
def test_the_parts_that_are_not_prose_are_the_same(page: str, translated: str) -> None:
    pairs = list(zip(sections(page), sections(translated), strict=True))

    for one, other in pairs:
        where = f"{page}: {one.heading}"
        assert other.level == one.level, where
        assert blocks(other.text) == blocks(one.text), where
        assert tables(other.text) == tables(one.text), where
        assert names(other.text) == names(one.text), where
        assert links(translated, other.text) == links(page, one.text), where
        assert figures(other.text) == figures(one.text), where


@pytest.mark.parametrize("page", PAGES)
def test_what_has_changed_in_english_was_translated(page: str) -> None:
    current = {
        each.heading: hashlib.sha256(each.text.encode()).hexdigest()[:16] for each in sections(page)
    }
    recorded = json.loads(TRANSLATED.read_text()) if TRANSLATED.exists() else {}
    if os.environ.get("UIMGACC_GOLDEN") == "write":
        recorded[page] = current
        TRANSLATED.write_text(json.dumps(recorded, indent=2, sort_keys=True) + "\n")

    before = recorded.get(page, {})
    changed = [heading for heading in current if before.get(heading) != current[heading]]
    assert changed == [], f"translate these sections of {page} in {PAGES[page]} (see above)"
