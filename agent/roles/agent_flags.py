"""The flags of `uimgacc agent`, and their environment variables."""

import argparse
import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence

from agent import settings
from agent.node import labelling


def _path(text: str) -> pathlib.Path:
    return pathlib.Path(text).absolute()


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, not {text!r}")
    return text.lower() == "true"


def _taint(text: str) -> str:
    try:
        if text:
            labelling.parse_taint(text)
    except labelling.TaintError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


_FLAGS: Sequence[tuple[str, Callable[[str], object], str]] = (
    ("pods", _path, "folder of pod manifests, where there is no cluster"),
    ("kubernetes", str, "name of this node: its pods come from the API server"),
    ("kubeconfig", _path, "how to reach the API server; without it, as a pod does"),
    ("service-account", _path, "folder of the pod's token and the API server's authority"),
    ("api-seconds", float, "how long the API server may take for one answer"),
    ("drain", _truth, "true: serve nothing and let go of what nothing uses"),
    ("startup-taint", _taint, "KEY[=VALUE]:EFFECT to take off the node once it can serve"),
    ("store", _path, "root folder of the shared store"),
    ("nfs", str, "SERVER:/EXPORT to mount as the store; empty: the store is there already"),
    ("nfs-options", str, "options of that mount, beside or instead of the defaults"),
    ("nfs-seconds", float, "how long the NFS server may take for one mount"),
    ("containerd", str, "containerd's socket"),
    ("snapshotter-name", str, "name of our snapshotter in containerd's configuration"),
    ("default-snapshotter", _truth, "true where it is containerd's default snapshotter"),
    ("listen", str, "host:port of the page, /status, /metrics, /healthz, /readyz; empty: nowhere"),
    ("metrics-address", str, "host:port for /metrics alone; empty: nowhere"),
    ("copied-mounts", _path, "a container's volume: what is mounted below it is let go of"),
    ("state", _path, "local folder for what should survive a restart"),
    ("store-seconds", float, "how long the store may take for one answer"),
    ("containerd-seconds", float, "how long containerd may take for one call"),
    ("probe-seconds", float, "how often store, containerd and snapshotter are probed"),
    ("retired-seconds", float, "how often the store is asked what was deleted"),
    ("canary-seconds", float, "how often a registered image is checked"),
    ("parallel", int, "pods served at the same time"),
    ("stop-seconds", float, "how long a clean stop may take"),
    ("verbose", _truth, "true: log routine, too"),
)


def parse(arguments: Sequence[str]) -> settings.Agent:
    """Read flags and their environment variables (UIMGACC_STORE for --store, ...)."""
    parser = argparse.ArgumentParser(
        prog="uimgacc agent",
        description="The node agent: has the images of this node's pods present before they start.",
    )
    defaults = {
        field.name: field.default
        for field in dataclasses.fields(settings.Agent)
        if field.default is not dataclasses.MISSING
    }
    for flag, kind, text in _FLAGS:
        name = flag.replace("-", "_")
        variable = f"UIMGACC_{name.upper()}"
        # argparse converts a default that is a string as it does an argument.
        default = os.environ.get(variable, defaults.get(name))
        required = name not in defaults and default is None
        shown = "" if default in (None, "") else f" (default {default})"
        parser.add_argument(
            f"--{flag}",
            type=kind,
            default=default,
            required=required,
            help=f"{text} [{variable}]{shown}",
        )
    found = settings.Agent(**vars(parser.parse_args(arguments)))
    if bool(found.pods) is bool(found.kubernetes):
        parser.error("either --pods or --kubernetes is needed: where pods come from")
    return found
