"""Taking over what a node says of the start of an image, as far as the store's records bear it out.

Only the controller that leads does this, so no two write the same file. Blocking.
"""

import pathlib
from collections.abc import Collection, Mapping

from agent.model import images, records
from agent.model.starts import profile_codec, start_profiles
from agent.store import layout, profile_files
from agent.store.lookup import direct_reader


def take(place: layout.Layout, text: str, refs: Collection[str]) -> bool:
    """Store the profile in a report of an image that is among `refs`; False: it adds nothing.

    Raises ProfileError where it is not of that image: of layers or builds that it does not have,
    beyond the end of a file, or damaged.
    """
    report = profile_codec.parse_report(text)
    reader = direct_reader.Reader(place)
    record = _image(reader, report.image)
    if record is None or record.ref not in refs:
        raise start_profiles.ProfileError(f"{report.image} is no image of the cache")
    made = next((each for each in record.platforms if each.manifest == report.manifest), None)
    if made is None:
        raise start_profiles.ProfileError(f"{report.image} is another build by now")
    profile = start_profiles.within(profile_codec.decode(report.text), sizes_of(reader, made))
    return put(place.profile_records, record.ref, made, profile, tmp=place.tmp)


def _image(reader: direct_reader.Reader, ref: str) -> records.ImageRecord | None:
    try:
        return reader.image(images.parse_reference(ref))
    except images.ImageReferenceError as error:
        raise start_profiles.ProfileError(str(error)) from error


def sizes_of(reader: direct_reader.Reader, made: records.PlatformImage) -> Mapping[str, int]:
    """The bytes of the layer files that an image is mounted from, by the names of these files."""
    sizes = {}
    for layer in made.layers:
        chain = reader.chain(layer.chain_id)
        file = reader.layer(chain.diff_id) if chain is not None else None
        if file is not None:
            sizes[file.diff_id] = file.size
    return sizes


def put(
    folder: pathlib.Path,
    ref: str,
    made: records.PlatformImage,
    profile: start_profiles.Profile,
    *,
    tmp: pathlib.Path,
) -> bool:
    """Add an observation to the profiles in a folder; False: it adds nothing."""
    before = profile_files.read(folder, images.parse_reference(ref))
    changed = profile_files.with_profile(before, ref, made, profile)
    if changed is None:
        return False
    profile_files.write(folder, changed, tmp=tmp)
    return True
