"""JSON and YAML nested without end: refused in a sentence, whoever wrote it."""

import base64

import pytest

from agent import errors
from agent.cli.caches import create_command
from agent.clients.registry import credential_config, credentials, distribution, tag_push
from agent.control.gc import roster
from agent.control.reconcile import cluster
from agent.model import images, keys, oci, records, reports
from agent.store import decoding

DEEP = (b"[" * 200_000, b'{"unknown":' + b"[" * 200_000, b'{"unknown":' * 50_000)
# PyYAML takes time by the square of the depth; Python's recursion ends long before.
DEEP_YAML = (b"[" * 2_000, b'{"unknown":' + b"[" * 2_000, b'{"unknown":' * 2_000)
DIGEST = f"sha256:{'0' * 64}"
REFERENCE = images.parse_reference("r.io/app:1")

READERS = {
    "a manifest": lambda data: oci.parse(data, ""),
    "an index": lambda data: oci.parse(data, "application/vnd.oci.image.index.v1+json"),
    "a config": oci.parse_config,
    "a manifest to push": lambda data: tag_push._parsed(
        distribution.Manifest(data=data, media_type="", digest=DIGEST), REFERENCE
    ),
    "a pull secret": lambda data: credentials.DockerConfig(data, source="a test"),
    "the record of a cache": lambda data: decoding.cache(data, "imc-1"),
    "the record of a layer": lambda data: decoding.layer(data, DIGEST),
    "the report of a build": lambda data: reports.decode(data, "job"),
    "any record": lambda data: records.decode(data, records.StoreRecord, "store.json"),
}


@pytest.mark.parametrize("data", DEEP, ids=range(len(DEEP)))
@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_what_is_nested_too_deep_is_refused(read, data: bytes) -> None:
    with pytest.raises(errors.AgentError) as caught:
        read(data)

    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("data", DEEP, ids=range(len(DEEP)))
def test_annotations_are_refused_as_well(data: bytes) -> None:
    assert not cluster._is_docker_config(base64.b64encode(data).decode())
    assert reports.decode_saved(data.decode()) is None
    annotations = {keys.GENERATION: "1", keys.HELD: data.decode()}
    assert roster.node_of("n", annotations).held == ()


@pytest.mark.parametrize("data", DEEP_YAML, ids=range(len(DEEP_YAML)))
def test_files_are_refused_as_well(data: bytes, tmp_path) -> None:
    path = tmp_path / "file.yaml"
    path.write_bytes(data)
    with pytest.raises(errors.AgentError):
        create_command.read_documents(str(path))
    with pytest.raises(errors.AgentError):
        credential_config.read(path)
