"""Records as they are found in a store."""

import base64
import zlib

import msgspec
import pytest

from agent.model import records, reports

LAYER = records.LayerRecord(
    diff_id=f"sha256:{'a' * 64}",
    size=1,
    tar_size=1,
    sha256=f"sha256:{'b' * 64}",
    blobs=[],
    mkfs=records.Toolchain(version="1", options=[]),
)


@pytest.mark.parametrize("data", [b"", b"\xff", b'{"format": 1, "id": "\xff\xfe"}'])
def test_bytes_that_are_no_record_raise_a_record_error(data: bytes) -> None:
    """The third one is no UTF-8 within a string, which msgspec refuses by another exception."""
    with pytest.raises(records.RecordError):
        records.decode(data, records.StoreRecord, "store.json")
    with pytest.raises(records.RecordError):
        reports.decode(data.replace(b'"format": 1, "id"', b'"step"'), "job")


def test_few_bytes_are_not_unpacked_to_names_without_end() -> None:
    """A snapshotter unpacks them before it can verify the record: 100 KiB took a gigabyte."""
    names = b"[" + b",".join([b'"a"'] * 2_000_000) + b"]"
    packed = base64.b64encode(zlib.compress(names, 9)).decode()
    record = msgspec.structs.replace(LAYER, implied_packed=packed)

    with pytest.raises(records.RecordError, match="too many names"):
        records.with_names(record, "x")


def test_a_digest_has_no_line_feed() -> None:
    data = records.encode(LAYER)
    ended = data.replace(LAYER.sha256.encode(), LAYER.sha256.encode() + b"\\n")
    assert ended != data
    with pytest.raises(records.RecordError):
        records.decode(ended, records.LayerRecord, "x")
