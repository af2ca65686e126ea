"""The reference page of the settings says what the code does.

`UIMGACC_GOLDEN=write` writes the tables of the page anew.
"""

import os
import pathlib
import re

import pytest

from agent.kits import flags
from agent.settings import role_settings

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "reference" / "settings.md"


def table(role: str) -> str:
    rows = "\n".join(flags.markdown(role_settings.ROLES[role]))
    return f"<!-- settings of {role} -->\n{rows}\n<!-- end -->"


@pytest.mark.parametrize("role", role_settings.ROLES)
def test_the_page_has_the_settings_of_each_role(role: str) -> None:
    text = PAGE.read_text()
    pattern = re.compile(rf"<!-- settings of {role} -->\n.*?<!-- end -->", re.DOTALL)
    if os.environ.get("UIMGACC_GOLDEN") == "write":
        PAGE.write_text(pattern.sub(lambda _: table(role), text))
        text = PAGE.read_text()

    assert table(role) == "".join(pattern.findall(text))


@pytest.mark.parametrize("role", role_settings.ROLES)
def test_every_setting_is_described_by_a_sentence(role: str) -> None:
    for setting in flags.settings_of(role_settings.ROLES[role]):
        assert re.fullmatch(r"[A-Zc].*(\.|cri-\.\.\.)", setting.help), setting.field
