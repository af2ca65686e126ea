"""A store with a damaged record loses nothing that a cache wants, whatever stands in it."""

import math
import pathlib
import tempfile

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.model import images
from agent.store.gc import generations
from agent.store.lookup import direct_reader
from agent.store.publish import writer
from tests.unit.store import making
from tests.unit.store.gc import test_collection

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)
FIELDS = ["generation", "layers", "images", "blobs", "nodes", "id", "names", "earlier", "caches"]
DAMAGE = (
    st.binary(max_size=40)
    | JSON.map(msgspec.json.encode)
    | st.dictionaries(st.sampled_from(FIELDS), JSON).map(msgspec.json.encode)
)


@pytest.mark.timeout(120)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(which=st.integers(0, 6), damage=DAMAGE)
def test_whatever_stands_in_a_record_deletes_nothing_that_is_wanted(which, damage) -> None:
    """Where it is refused, nothing at all goes; else only what a round would delete anyway."""
    with tempfile.TemporaryDirectory(dir=making.MEMORY) as folder:
        place = making.store(pathlib.Path(folder))
        making.cache(place, "imc-one", making.image(place, "base", "one", ref="r.io/one:1"))
        two = making.image(place, "base", "two", ref="r.io/two:1")
        making.cache(place, "imc-two", two)
        writer.delete_cache(place, "imc-one")
        test_collection.rounds(place, 2, floor=0)
        place.claims.mkdir(exist_ok=True)
        victim = [
            place.generation_record,
            place.retired_record(1),
            place.retired_records / "000000-0123456789ab.pending",
            place.retired_records / "2.hiding",
            place.claims / "imc-x.host.json",
            place.cache_record("imc-two"),
            place.image_record(images.parse_reference("r.io/two:1")),
        ][which]
        victim.write_bytes(damage)
        before = test_collection.files_of(place)

        try:
            test_collection.rounds(place, 4, floor=math.inf)
        except generations.CollectionRefused:
            assert test_collection.files_of(place) == before
        reader = direct_reader.Reader(place)
        for layer in two.platforms[0].layers:
            assert reader.layer(layer.diff_id) is not None
            assert reader.chain(layer.chain_id) is not None
