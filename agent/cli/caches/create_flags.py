"""Flags of `uimgacc create` that would have no effect: each is refused by name.

A flag that is ignored in silence is dangerous: a cache that was to serve one namespace
would serve all of them.
"""

from collections.abc import Mapping

import typer

from agent.cli import output

_STORE_ONLY = frozenset(
    {
        "secret",
        "ca",
        "mirrors",
        "platform",
        "plugin_config",
        "plugin_folder",
        "signature_policy",
        "parallel",
        "mkfs",
    }
)
_CLUSTER_ONLY = frozenset({"pull_secret", "kubeconfig", "system", "wait"})
_IN_MANIFEST = frozenset(
    {
        "size",
        "retention_days",
        "namespace",
        "pull_secret",
        "plain_http",
        "insecure",
        "acr_instance",
    }
)
_OF_TARGET = frozenset({"image", "file", "size", "retention_days", "pull_secret", "acr_instance"})

_WHY: Mapping[str, str] = {
    "store": "for builds into a --store; on a cluster the controller decides this, and"
    " --pull-secret names Secrets",
    "cluster": "for a cluster, not for a --store",
    "--file": "not with --file on a cluster: write it into the manifest",
    "TARGET": "not with a TARGET, as in UCloud's `create`",
}


def refuse(context: typer.Context, *, where: str, how: str) -> None:
    """Raise UsageError for flags of the command line that have no effect.

    `where` is "a store" or "a cluster", `how` is "TARGET", "--file" or "". What comes from the
    environment, or is a default, is not meant for this very call and stays.
    """
    given = {}
    for each in context.command.params:
        if each.name and _is_given(context, each.name):
            # `--no-wait` for what is switched off.
            off = context.params.get(each.name) is False
            given[each.name] = (each.secondary_opts if off else each.opts)[0]
    rules = [("cluster", _CLUSTER_ONLY)] if where == "a store" else [("store", _STORE_ONLY)]
    if where == "a cluster":
        rules += [("--file", _IN_MANIFEST)] if how == "--file" else []
        rules += [("TARGET", _OF_TARGET)] if how == "TARGET" else []
    for why, names in rules:
        if wrong := [flag for name, flag in given.items() if name in names]:
            raise output.UsageError(f"{', '.join(wrong)}: {_WHY[why]}")


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
