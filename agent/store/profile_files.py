"""Files of start profiles: one an image, and the newest of each repository. Blocking.

The folder is `meta/profiles` of a store, where the controller writes, or one on a node's disk,
where the agent of that node does. The newest profile of a repository is kept once more as
`.newest`, which is no tag: a build under a new tag has no profile of its own yet, but it has most
of its layers in common with the build before.

Profiles are advice: what is damaged counts as absent, and is replaced.
"""

import contextlib
import itertools
import os
import pathlib
from collections.abc import Collection, Iterator, Sequence

from agent.kits import files
from agent.model import images, records
from agent.model.starts import profile_codec, start_profiles
from agent.store import decoding, layout
from agent.store.lookup import file_reads

LIMIT = 1 << 20
"""Bytes of a file."""

NEWEST = ".newest"


def paths(folder: pathlib.Path, reference: images.Reference) -> tuple[pathlib.Path, pathlib.Path]:
    """The file of an image, and that of the newest of its repository."""
    path = layout.named_after(folder, reference)
    return path, path.with_name(NEWEST)


def read(folder: pathlib.Path, reference: images.Reference) -> records.ProfileRecord | None:
    """The profiles of an image; None where there are none, or damaged ones."""
    return _read(paths(folder, reference)[0], reference)


def read_all(folder: pathlib.Path, reference: images.Reference) -> list[records.ProfileRecord]:
    """The profiles of an image, and then the newest of its repository."""
    own, newest = paths(folder, reference)
    return list(filter(None, (_read(own, reference), _read(newest, None))))


def read_each(folder: pathlib.Path) -> Iterator[records.ProfileRecord]:
    """The profiles of all images below a folder."""
    found = (_read(path, None) for path in everything(folder) if path.name != NEWEST)
    return filter(None, found)


def _read(path: pathlib.Path, reference: images.Reference | None) -> records.ProfileRecord | None:
    try:
        data = file_reads.read(str(path), LIMIT)
        if reference is None:
            return records.decode(data, records.ProfileRecord, str(path))
        return decoding.profile(data, reference)
    except (OSError, records.RecordError):
        return None


def write(folder: pathlib.Path, record: records.ProfileRecord, *, tmp: pathlib.Path) -> None:
    """Replace the profiles of an image; `tmp` is a folder of the same file system."""
    data = records.encode(record)
    for path in paths(folder, images.parse_reference(record.ref)):
        files.write(path, data, tmp=tmp)


def remove(folder: pathlib.Path, reference: images.Reference) -> bool:
    """Forget the profiles of an image, also as the newest of its repository; were there any?"""
    own, newest = paths(folder, reference)
    was_newest = (record := _read(newest, None)) is not None and record.ref == str(reference)
    existed = own.exists() or was_newest
    own.unlink(missing_ok=True)
    if was_newest:
        newest.unlink(missing_ok=True)
    return existed


def profile_of(
    found: Sequence[records.ProfileRecord], manifest: str
) -> start_profiles.Profile | None:
    """The profile of this very build of an image."""
    for each in _each(found):
        if each.manifest == manifest:
            return _decoded(each)
    return None


def profile_shared(
    found: Sequence[records.ProfileRecord], platform: str, layers: Collection[str]
) -> start_profiles.Profile | None:
    """What is known, from other builds, of layer files that this one has, too; None: nothing."""
    for each in _each(found):
        if each.platform == platform and (profile := _decoded(each)) is not None:
            shared = start_profiles.of_layers(profile, layers)
            if shared.pieces:
                return shared
    return None


def _each(found: Sequence[records.ProfileRecord]) -> Iterator[records.PlatformProfile]:
    return itertools.chain.from_iterable(record.profiles for record in found)


def _decoded(stored: records.PlatformProfile) -> start_profiles.Profile | None:
    try:
        return profile_codec.decode(stored.profile)
    except start_profiles.ProfileError:
        return None


def with_profile(
    before: records.ProfileRecord | None,
    ref: str,
    made: records.PlatformImage,
    profile: start_profiles.Profile,
) -> records.ProfileRecord | None:
    """The record of an image with one more observation; None where that adds nothing.

    Of one build, the node that has observed a layer first decides (start_profiles.merged). An
    earlier build's profile gives way. Raises ProfileError where the profile has no text.
    """
    known = profile_of([before] if before else [], made.manifest)
    if known is not None:
        profile = start_profiles.merged(known, profile)
        if profile == known:
            return None
    own = records.PlatformProfile(
        platform=made.platform, manifest=made.manifest, profile=profile_codec.encode(profile)
    )
    others = [
        each for each in (before.profiles if before else []) if each.platform != made.platform
    ]
    return records.ProfileRecord(ref=ref, profiles=[own, *others][: records.MAX_PLATFORMS])


def everything(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """All files below a folder of profiles."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        yield from (pathlib.Path(place, name) for name in sorted(names))


def keep_newest(folder: pathlib.Path, count: int) -> None:
    """Remove all but the newest files, so that a node's folder has a bound."""
    found = []
    for path in everything(folder):
        with contextlib.suppress(OSError):
            found.append((path.stat().st_mtime, path))
    for _, path in sorted(found, reverse=True)[count:]:
        path.unlink(missing_ok=True)
