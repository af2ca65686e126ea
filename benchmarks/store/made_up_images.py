"""Image records of images that no registry has."""

from collections.abc import Sequence

from agent.model import images, records


def record(
    reference: images.Reference,
    diff_ids: Sequence[str],
    *,
    target: str,
    chain_ids: Sequence[str] = (),
    manifest: str = "",
    config: str = "",
) -> records.ImageRecord:
    """Return the record of an image for linux/amd64, whose layers have a byte each.

    `target` is the digest that the tag stands for. An empty `manifest` or `config` is the target,
    and without `chain_ids` the layers' chain IDs are their diff IDs.
    """
    layers = [
        records.ImageLayer(
            diff_id=diff_id,
            chain_id=chain_id,
            digest=diff_id,
            media_type="layer",
            size=1,
            tar_size=1,
            erofs_size=1,
        )
        for diff_id, chain_id in zip(diff_ids, chain_ids or diff_ids, strict=True)
    ]
    platform = records.PlatformImage(
        platform="linux/amd64",
        manifest=manifest or target,
        manifest_media_type="manifest",
        manifest_size=1,
        config=config or target,
        layers=layers,
    )
    return records.ImageRecord(
        ref=str(reference),
        target=target,
        target_media_type="index" if manifest else "manifest",
        target_size=1,
        platforms=[platform],
        created="",
    )
