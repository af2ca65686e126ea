"""`--help` of each command describes it and every option to someone who has read nothing."""

from collections.abc import Iterator

import pytest
import typer.main
import typer.testing

from agent.cli import commands

ROOT = typer.main.get_command(commands.app)
RUNNER = typer.testing.CliRunner()


def all_commands() -> Iterator[tuple[str, "typer.main.click.Command"]]:
    waiting = [("", ROOT)]
    while waiting:
        path, command = waiting.pop()
        for name, sub in getattr(command, "commands", {}).items():
            waiting.append((f"{path} {name}".strip(), sub))
        if path:
            yield path, command


COMMANDS = dict(all_commands())


def test_all_commands_are_there() -> None:
    assert set(COMMANDS) == {
        *("agent", "build", "controller", "snapshotter"),
        *("enable", "disable", "create", "get", "delete", "doctor", "node-setup"),
        "advise",
        *("node", "node list", "node enable", "node disable", "node resume"),
        *("status", "why", "bugreport", "match"),
        *("store", "store init", "store check", "store prune", "store release"),
        *("store verity", "version"),
        *("store keygen", "store sign", "store rotate-key"),
        *("profile", "profile show", "profile record", "profile forget"),
    }


@pytest.mark.parametrize("path", COMMANDS)
def test_a_command_and_each_of_its_options_are_described_by_sentences(path: str) -> None:
    command = COMMANDS[path]
    words = (command.help or "").split()

    assert len(words) > 5
    for option in command.params:
        text = getattr(option, "help", None)
        if not getattr(option, "hidden", False) and option.name != "help":
            assert text, f"{path}: {option.name}"
            assert text[0].isalnum() or text[0] in "[/", f"{path}: {option.name}"


@pytest.mark.parametrize("path", [path for path in COMMANDS if COMMANDS[path].params])
def test_help_is_shown(path: str) -> None:
    result = RUNNER.invoke(commands.app, [*path.split(), "--help"])

    assert result.exit_code == 0
    assert f"Usage: uimgacc {path}" in result.output
