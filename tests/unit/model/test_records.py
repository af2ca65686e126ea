"""Records as they are found in a store."""

import pytest

from agent.model import records, reports


@pytest.mark.parametrize("data", [b"", b"\xff", b'{"format": 1, "id": "\xff\xfe"}'])
def test_bytes_that_are_no_record_raise_a_record_error(data: bytes) -> None:
    """The third one is no UTF-8 within a string, which msgspec refuses by another exception."""
    with pytest.raises(records.RecordError):
        records.decode(data, records.StoreRecord, "store.json")
    with pytest.raises(records.RecordError):
        reports.decode(data.replace(b'"format": 1, "id"', b'"step"'), "job")
