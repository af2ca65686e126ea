"""Signed builds end to end: the controller's key, real builders, and a writer of the store.

The attacker has what a builder has: write access to the store, no key, no API.
"""

import os
import subprocess
import sys

import msgspec
import pytest

from agent.clients.kube import rest_client
from agent.control.signing import key_objects
from agent.model import digests, records
from agent.store import integrity, signatures, trusted_keys
from lab import places, processes
from tests.control import builders, conftest

pytestmark = pytest.mark.timeout(300)

ATTACK = """
import pathlib, re, sys
from agent.cli.entry import main
try:
    main()
except SystemExit as ended:
    if ended.code:
        raise
store = next(each for each in sys.argv if each.startswith("--store=")).removeprefix("--store=")
chains = sorted(pathlib.Path(store).glob("meta/chains/*/*.json"))
layers = sorted(path.stem for path in pathlib.Path(store).glob("meta/layers/*/*.json"))
for path in chains:
    text = path.read_text()
    own = re.search(r'"diff_id": "sha256:([0-9a-f]{64})"', text)[1]
    other = next(each for each in layers if each != own)
    text = text.replace(f'"diff_id": "sha256:{own}"', f'"diff_id": "sha256:{other}"')
    path.write_text(text.replace('"variant_of": null', f'"variant_of": "sha256:{own}"'))
"""
"""A build, and then somebody who has every chain name another layer of the same image."""


def trust(plane: conftest.Plane) -> signatures.Trust:
    """What a node knows."""
    body = plane.api.get(
        rest_client.CONFIG_MAPS, key_objects.CONFIG_MAP, namespace=plane.api.namespace
    )
    document = trusted_keys.decode(body["data"][trusted_keys.NAME].encode(), "x")
    assert document.unsigned == "refuse"
    return signatures.Trust(trusted_keys.keys_of(document))


def unsigned(plane: conftest.Plane) -> list[str]:
    findings = integrity.check(plane.store, content=False, trust=trust(plane))
    return [str(each.path) for each in findings if each.kind is integrity.Kind.UNSIGNED]


def test_what_is_built_is_signed(plane) -> None:
    plane.controller()
    key = plane.apply("tools", "lab/gzip:1", "lab/zstd:1")
    plane.wait(key, "Ready")

    assert unsigned(plane) == []


def test_what_is_exchanged_between_build_and_signature_is_refused_and_built_again(plane) -> None:
    plane.builders.deadly["tools"] = [sys.executable, "-c", ATTACK]
    plane.controller("--retry-seconds=4")
    key = plane.apply("tools", "lab/gzip:1")

    message = plane.wait(key, "Failed")["message"]
    assert "are not signed" in message
    assert unsigned(plane) != []
    plane.wait(key, "Ready")
    assert unsigned(plane) == []


def test_a_build_takes_over_no_layer_that_is_not_signed(plane) -> None:
    """A writer puts its own file at the place of a layer, with a record as good as any."""
    plane.controller()
    first = plane.apply("tools", "lab/gzip:1")
    plane.wait(first, "Ready")
    path = min(plane.store.layer_records.glob("*/*.json"))
    record = records.decode(path.read_bytes(), records.LayerRecord, "x")
    evil = plane.store.layer(record.diff_id).read_bytes() + b"evil"
    plane.store.layer(record.diff_id).write_bytes(evil)
    forged = msgspec.structs.replace(record, size=len(evil), sha256=digests.sha256(evil))
    path.write_bytes(records.encode(forged))

    second = plane.apply("more", "lab/gzip:1")
    plane.wait(second, "Ready")
    own = plane.reader.layer(record.diff_id)
    assert own is not None
    assert own.diff_id != record.diff_id
    assert plane.store.layer(own.diff_id).read_bytes() != evil
    assert unsigned(plane) == []  # the forged record is marked: no node uses it


def test_the_private_key_is_not_in_the_store(plane) -> None:
    plane.controller()
    plane.wait(plane.apply("tools", "lab/gzip:1"), "Ready")
    secret = plane.api.get(rest_client.SECRETS, key_objects.SECRET, namespace=plane.api.namespace)

    assert any(name.endswith(".pem") for name in secret["data"])
    assert not list(plane.store.root.rglob("*.pem"))


def command(plane: conftest.Plane, *arguments: str) -> str:
    """A command as `kubectl exec` runs it in the controller's pod."""
    done = subprocess.run(
        [
            *processes.as_user(conftest.USER),
            *builders.COMMAND,
            "store",
            *arguments,
            f"--kubeconfig={plane.kubeconfig}",
            f"--system-namespace={plane.api.namespace}",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=places.CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(places.CHECKOUT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_person_signs_a_store_of_before_by_the_controllers_key_and_has_it_replaced(plane) -> None:
    plane.controller()
    plane.wait(plane.apply("tools", "lab/gzip:1"), "Ready")
    for path in plane.store.layer_records.glob("*/*.json"):
        record = records.decode(path.read_bytes(), records.LayerRecord, "x")
        path.write_bytes(records.encode(msgspec.structs.replace(record, signatures=[])))
    assert unsigned(plane) != []

    assert "records signed" in command(plane, "sign", f"--store={plane.store.root}")
    assert unsigned(plane) == []
    assert "signs by it in 10 minutes" in command(plane, "rotate-key")
