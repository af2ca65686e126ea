"""A store of 100,000 layers is signed, and signed again by another key: time and memory.

The store is the one of benchmarks.store.collecting. Each pass runs in a process of its own, as it
does in the controller; the second one verifies each signature of the first key.
"""

import json
import pathlib
import subprocess
import sys
import time

from agent.store import layout, signing_keys
from agent.store.publish import writer
from benchmarks.store import collecting

_PASS = """
import datetime, json, pathlib, resource, sys
from agent.store import layout, signatures, signing_keys
from agent.store.lookup import direct_reader
from agent.store.publish import record_signing
root, key, before = pathlib.Path(sys.argv[1]), *json.loads(sys.argv[2])
store = direct_reader.open_store(root).id
trust = None
if before:
    value = signing_keys.from_pem(before.encode(), "before").value
    since = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    trust = signatures.Trust((signatures.PublicKey(value, store, since),))
signer = record_signing.Signer(
    key=signing_keys.from_pem(key.encode(), "key"), store=store, trust=trust
)
done = record_signing.sign_all(layout.Layout(root), signer)
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({
    "signed": done[record_signing.Result.SIGNED],
    "all": done.total(),
    "cpu_s": used.ru_utime + used.ru_stime,
    "peak_mib": used.ru_maxrss / 1024,
}))
"""


def run(folder: pathlib.Path) -> dict[str, float]:
    """The figures of both passes."""
    place = layout.Layout(folder / "store to sign")
    writer.create(place.root)
    collecting.fill(place)
    first, second = signing_keys.generate().pem().decode(), signing_keys.generate().pem().decode()
    seconds, signed = _pass(place.root, first, "")
    again_seconds, again = _pass(place.root, second, first)
    assert signed["signed"] == again["signed"] == again["all"], (signed, again)
    return {
        "sign_layers": collecting.LAYERS,
        "sign_records": signed["signed"],
        "sign_s": seconds,
        "sign_cpu_s": signed["cpu_s"],
        "sign_again_s": again_seconds,
        "sign_again_cpu_s": again["cpu_s"],
        "sign_rss_mib": max(signed["peak_mib"], again["peak_mib"]),
    }


def _pass(root: pathlib.Path, key: str, before: str) -> tuple[float, dict[str, float]]:
    started = time.monotonic()
    text = subprocess.run(
        [sys.executable, "-c", _PASS, str(root), json.dumps([key, before])],
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    return time.monotonic() - started, json.loads(text)
