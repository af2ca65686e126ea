import pytest

from agent.model import keys
from agent.node.images import registration_plan
from agent.node.report import savings
from tests.unit.node import conftest


@pytest.fixture
def ledger(containerd, tmp_path) -> savings.Ledger:
    return savings.Ledger(containerd, folder=tmp_path)


async def test_an_ordinary_pull_teaches_the_speed(ledger, fake, image) -> None:
    image.pull_into(fake, "overlayfs")
    await ledger.noticed(str(image.reference))

    (sample,) = ledger.throughput.samples
    assert (sample.size, sample.seconds) == (8 << 20, 3.0)
    assert ledger.entries == ()


async def test_a_pull_is_measured_once_whatever_its_names(ledger, fake, image) -> None:
    image.pull_into(fake, "overlayfs")
    fake.add_image("sha256:config", image.target)
    await ledger.noticed(str(image.reference))
    await ledger.noticed("sha256:config")

    assert len(ledger.throughput.samples) == 1


async def test_a_record_before_its_snapshots_is_looked_at_again(ledger, fake, image) -> None:
    image.pull_into(fake, "overlayfs")
    top = ("overlayfs", image.chain[-1])
    fake.backend.discard(top)
    await ledger.noticed(str(image.reference))
    before = ledger.throughput.samples
    fake.backend.add(top)
    await ledger.noticed(str(image.reference))

    assert (len(before), len(ledger.throughput.samples)) == (0, 1)


async def test_what_we_have_registered_is_no_pull(ledger, fake, image) -> None:
    image.pull_into(fake, "uimgacc")
    fake.images[str(image.reference)].labels[keys.REGISTERED] = "true"
    await ledger.noticed(str(image.reference))

    assert ledger.throughput.samples == ()


async def test_a_pull_that_the_store_has_spared_is_counted(ledger, fake, image) -> None:
    ordinary = conftest.Image("registry.example/ordinary:1")
    ordinary.pull_into(fake, "overlayfs")
    await ledger.noticed(str(ordinary.reference))
    image.pull_into(fake, "uimgacc", layers=False)
    await ledger.noticed(str(image.reference))

    (entry,) = ledger.entries
    assert entry.saving.size == 8 << 20
    assert entry.saving.expectation.inputs["bytes"] == 8 << 20
    assert len(ledger.throughput.samples) == 1


async def test_unpacked_layers_whose_blobs_were_discarded_are_not_spared(
    ledger, fake, image
) -> None:
    image.pull_into(fake, "uimgacc", layers=False)
    fake.inodes = dict.fromkeys(image.chain, 5)
    await ledger.noticed(str(image.reference))

    assert ledger.entries == ()


async def test_a_registration_counts_only_what_was_not_here(ledger, fake, image) -> None:
    fake.add_blob(image.layer_blobs[0])
    done = registration_plan.Registered(new=tuple(image.wanted.layers))
    await ledger.registered(image.record, done, seconds=0.5)

    (entry,) = ledger.entries
    assert entry.saving.size == 4 << 20
    # No pull was measured here yet: half of what was fetched for a build of 10 s.
    assert entry.saving.seconds == pytest.approx(4.5)


async def test_an_image_that_was_present_spares_nothing(ledger, image) -> None:
    await ledger.registered(image.record, registration_plan.Registered(already=True), seconds=0.1)

    assert ledger.entries == ()


async def test_a_warm_image_counts_when_a_pod_asks_for_it_and_once(ledger, image) -> None:
    done = registration_plan.Registered(new=tuple(image.wanted.layers))
    await savings.WarmLedger(ledger).registered(image.record, done, seconds=2.0)
    assert (ledger.totals.images["hit"], ledger.entries) == (0, ())

    for _ in range(2):
        present = registration_plan.Registered(already=True)
        await ledger.registered(image.record, present, seconds=0.25)

    (entry,) = ledger.entries
    assert (entry.saving.size, entry.saving.actual) == (8 << 20, 0.25)
    assert ledger.totals.images["hit"] == 1


async def test_the_speed_survives_a_restart(ledger, containerd, fake, image, tmp_path) -> None:
    image.pull_into(fake, "overlayfs")
    await ledger.noticed(str(image.reference))
    again = savings.Ledger(containerd, folder=tmp_path)

    assert again.throughput == ledger.throughput


@pytest.mark.parametrize("text", ["", "{", '{"samples": 1}', '{"samples": [{"size": "x"}]}'])
def test_a_damaged_file_is_as_none(containerd, tmp_path, text) -> None:
    (tmp_path / "pulls.json").write_text(text)
    ledger = savings.Ledger(containerd, folder=tmp_path)

    assert ledger.throughput.samples == ()


async def test_a_pull_of_what_was_laid_out_is_a_hit(ledger, fake, image) -> None:
    """All its snapshots are older than the pull: by containerd's records nothing was pulled."""
    done = registration_plan.Registered(new=tuple(image.wanted.layers))
    ledger.laid_out(image.record, done, seconds=0.5)
    assert ledger.totals.images["hit"] == 0

    image.pull_into(fake, "uimgacc", layers=False)
    for _ in range(2):
        await ledger.noticed(str(image.reference))

    (entry,) = ledger.entries
    assert entry.saving.size == 8 << 20
    assert ledger.totals.images["hit"] == 1


async def test_what_was_laid_out_and_never_pulled_saves_nothing(ledger, fake, image) -> None:
    done = registration_plan.Registered(new=tuple(image.wanted.layers))
    ledger.laid_out(image.record, done, seconds=0.5)

    assert ledger.entries == ()


async def test_what_was_here_already_saves_nothing_when_it_is_laid_out(ledger, fake, image) -> None:
    ledger.laid_out(image.record, registration_plan.Registered(already=True), seconds=0.5)
    fake.add_image(str(image.reference), image.target, media=image.media_type)
    await ledger.noticed(str(image.reference))

    assert ledger.entries == ()
