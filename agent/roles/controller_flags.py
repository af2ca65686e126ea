"""The settings of `uimgacc controller`, from its flags and environment variables."""

from collections.abc import Iterator, Sequence

from agent.kits import flags
from agent.settings import controller_settings


def parse(arguments: Sequence[str]) -> controller_settings.Controller:
    """Read them; the process ends where they are wrong."""
    return flags.read(
        controller_settings.Controller,
        arguments,
        program="uimgacc controller",
        description="Builds, refreshes and deletes caches of the store as ImageCache objects say.",
        check=_problems,
    )


def _problems(wanted: controller_settings.Controller) -> Iterator[str]:
    if wanted.api_listen and wanted.api_keys is None:
        yield "--api-listen needs --api-keys: who may use the API"
    if wanted.push_listen and wanted.push_tokens is None:
        yield "--push-listen needs --push-tokens: by what registries prove that they may notify"
