"""Sets larger than memory come back whole."""

from hypothesis import given
from hypothesis import strategies as st

from agent.store.gc import digest_spool


@given(st.lists(st.binary(min_size=4, max_size=4)), st.integers(0, 60))
def test_what_is_added_is_in_its_bucket_also_beyond_the_limit(
    tmp_path_factory, added: list[bytes], limit: int
) -> None:
    spool = digest_spool.Spool(tmp_path_factory.mktemp("spool"), "x", width=4, limit=limit)
    for record in added:
        spool.add(record)

    found = {number: sorted(spool.bucket(number)) for number in range(digest_spool.BUCKETS)}

    assert {number: records for number, records in found.items() if records} == {
        number: sorted(record for record in added if record[0] == number)
        for number in {record[0] for record in added}
    }
