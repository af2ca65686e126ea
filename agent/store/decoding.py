"""From a file's bytes to a record that is what was asked for: pure, no I/O.

A record is trusted only if it decodes *and* names the thing it was found under:
a file that landed under another's name (a restore from backup, a hand that
copied) would otherwise give wrong content silently.
"""

from collections.abc import Iterable

from agent import errors
from agent.model import digests, images, records


class NotAStore(errors.PermanentError):
    """A folder has no store.json, or one that is damaged.

    `root` is the folder, `reason` what is wrong.
    """

    def __init__(self, root: str, reason: str) -> None:
        super().__init__(f"{root} is not an image store: {reason}")
        self.root = root
        self.reason = reason


class UnknownFormat(errors.PermanentError):
    """A store is of a format that this version does not know.

    `root` is its folder, `format` the number found.
    """

    def __init__(self, root: str, number: int) -> None:
        super().__init__(
            f"the store {root} has format {number}, this uimgacc knows format {records.FORMAT}:"
            " use the version of uimgacc that made the store, or a newer one"
        )
        self.root = root
        self.format = number


class ForeignStore(errors.PermanentError):
    """A store belongs to another cluster than the one that asks.

    `root` is its folder, `cluster` the UID of the cluster that it belongs to, `asking` that of
    the one that asks; "" where a machine without a cluster asks, or where it belongs to none.
    """

    def __init__(self, root: str, cluster: str, asking: str) -> None:
        who = f"this is cluster {asking}" if asking else "this machine belongs to no cluster"
        owner = f"to cluster {cluster}" if cluster else "to no cluster any more"
        super().__init__(
            f"the store {root} belongs {owner} (the UID of its namespace kube-system), and {who}:"
            " a deletion there would not wait for what runs here. Use another store; if that"
            f" cluster is gone, run `uimgacc store release --store {root}`"
        )
        self.root = root
        self.cluster = cluster
        self.asking = asking


def check_cluster(record: records.StoreRecord, root: str, cluster: str) -> None:
    """Raise ForeignStore where a store belongs to another cluster than `cluster`."""
    if record.cluster and record.cluster != cluster:
        raise ForeignStore(root, record.cluster, cluster)


def store(data: bytes, root: str) -> records.StoreRecord:
    """Decode store.json; raise NotAStore or UnknownFormat."""
    try:
        record = records.decode(data, records.StoreRecord, "store.json")
    except records.RecordError as error:
        raise NotAStore(root, str(error)) from error
    if record.format != records.FORMAT:
        raise UnknownFormat(root, record.format)
    return record


def layer(data: bytes, diff_id: str) -> records.LayerRecord:
    """Decode the record of a layer; raise RecordError."""
    name = f"of layer {diff_id}"
    record = records.with_names(records.decode(data, records.LayerRecord, name), name)
    _must_be(name, asked=diff_id, found=record.diff_id)
    replaced_by = record.replaced_by
    if replaced_by is not None and not digests.is_replacement(replaced_by, diff_id):
        # It would have the next build take another layer for this one.
        raise records.RecordError(name, f"{replaced_by} is not the name of its replacement")
    return record


def sound_layer(data: bytes, diff_id: str) -> records.LayerRecord:
    """Decode the record of a layer that may be served; raise RecordError."""
    record = layer(data, diff_id)
    if record.damaged:
        raise records.RecordError(f"of layer {diff_id}", f"its file is damaged: {record.damaged}")
    return record


def chain(data: bytes, chain_id: str) -> records.ChainRecord:
    """Decode the record of a chain; raise RecordError."""
    name = f"of chain {chain_id}"
    record = records.decode(data, records.ChainRecord, name)
    diff_id = record.variant_of or record.diff_id
    parts = [diff_id] if record.parent is None else [record.parent, diff_id]
    # The chain ID of two is made from the first as if it were a bottom layer's.
    _must_be(name, asked=chain_id, found=digests.chain_ids(parts)[-1])
    return record


def image(data: bytes, reference: images.Reference) -> records.ImageRecord:
    """Decode the record of an image; raise RecordError."""
    name = f"of image {reference}"
    record = records.decode(data, records.ImageRecord, name)
    try:
        parsed = images.parse_reference(record.ref)
    except images.ImageReferenceError as error:
        raise records.RecordError(name, str(error)) from error
    _must_be(
        name,
        asked=f"{reference.name} {reference.version}",
        found=f"{parsed.name} {parsed.version}",
    )
    return record


def profile(data: bytes, reference: images.Reference) -> records.ProfileRecord:
    """Decode the start profiles of an image; raise RecordError."""
    name = f"of start profiles of {reference}"
    record = records.decode(data, records.ProfileRecord, name)
    _must_be(name, asked=str(reference), found=record.ref)
    return record


def any_image(data: bytes, name: str) -> records.ImageRecord:
    """Decode the record of an image whose reference is read from the record itself."""
    record = records.decode(data, records.ImageRecord, name)
    try:
        parsed = images.parse_reference(record.ref)
    except images.ImageReferenceError as error:
        raise records.RecordError(name, str(error)) from error
    file = name.rpartition("/")[2]
    _must_be(name, asked=file, found=f"{parsed.version}.json")
    return record


def cache(data: bytes, cache_id: str) -> records.CacheRecord:
    """Decode the record of a cache; raise RecordError."""
    record = records.decode(data, records.CacheRecord, f"of cache {cache_id}")
    _must_be(f"of cache {cache_id}", asked=cache_id, found=record.id)
    return record


def blob(data: bytes, digest: str) -> bytes:
    """Return the bytes of a manifest or config if they have the digest; else RecordError."""
    _must_be(f"blob {digest}", asked=digest, found=digests.sha256(data))
    return data


def pick_by_digest(
    candidates: Iterable[records.ImageRecord], digest: str
) -> records.ImageRecord | None:
    """The first record whose target, or manifest for a platform, has the digest."""
    return next((record for record in candidates if has_digest(record, digest)), None)


def has_digest(record: records.ImageRecord, digest: str) -> bool:
    """Whether an image's target, or its manifest for a platform, has the digest."""
    return digest == record.target or any(digest == one.manifest for one in record.platforms)


def _must_be(name: str, *, asked: str, found: str) -> None:
    if asked != found:
        raise records.RecordError(name, f"it is of {found}, not of {asked}")


def generation(data: bytes) -> records.GenerationRecord:
    """Decode generation.json; raise RecordError."""
    return records.decode(data, records.GenerationRecord, "generation.json")


def retired(data: bytes, number: int) -> records.RetiredRecord:
    """Decode what a generation retires; raise RecordError."""
    name = f"of retired generation {number}"
    record = records.decode(data, records.RetiredRecord, name)
    _must_be(name, asked=str(number), found=str(record.generation))
    return record


def claim(data: bytes, claim_id: str) -> records.ClaimRecord:
    """Decode what a build counts on; raise RecordError."""
    record = records.decode(data, records.ClaimRecord, f"of claim {claim_id}")
    _must_be(f"of claim {claim_id}", asked=claim_id, found=record.id)
    return record


def nodes(data: bytes) -> records.NodesRecord:
    """Decode nodes.json; raise RecordError."""
    return records.decode(data, records.NodesRecord, "nodes.json")
