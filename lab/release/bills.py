"""The bill of materials of an image, in CycloneDX 1.6.

The image has no package database of its own. What is listed is what was unpacked: Debian's packages
by the control files of the .deb files, Python's by the metadata in the image, with the hashes of
what was downloaded. What a program of a package is linked with statically (cosign's Go
modules) is Debian's to list, and is not here.
"""

import datetime
import importlib.metadata
import json
import pathlib
import uuid
from collections.abc import Iterator, Mapping

import packageurl
from cyclonedx.model import HashAlgorithm, HashType, bom, component, contact
from cyclonedx.model import license as licences
from cyclonedx.output import json as output

from lab.image import rootfs
from lab.release import platforms, sources

_DISTRIBUTIONS = {False: "debian-13", True: "debian-testing"}


def make(image: platforms.Image, version: sources.Version) -> bytes:
    """Return the bill of one image."""
    top = _of_image(image, version)
    found = bom.Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, image.digest),
        metadata=bom.BomMetaData(
            component=top,
            timestamp=datetime.datetime.fromtimestamp(version.seconds, datetime.UTC),
        ),
    )
    parts = [*debian(image.root), *python(image.root)]
    for part in parts:
        found.components.add(part)
    found.register_dependency(top, parts)
    text = output.JsonV1Dot6(found).output_as_string(indent=2)
    return text.encode() + b"\n"


def _of_image(image: platforms.Image, version: sources.Version) -> component.Component:
    qualifiers = {"arch": image.architecture}
    purl = packageurl.PackageURL("oci", name="uimgacc", version=image.digest, qualifiers=qualifiers)
    return component.Component(
        type=component.ComponentType.CONTAINER,
        name="uimgacc",
        version=version.text,
        purl=purl,
        bom_ref=str(purl),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=image.digest.partition(":")[2])],
    )


def debian(root: pathlib.Path) -> Iterator[component.Component]:
    """Return Debian's packages in the files of a root."""
    notes = json.loads(root.with_name(f"{root.name}.debs.json").read_text())
    for note in notes:
        purl = _debian_purl(note)
        yield component.Component(
            type=component.ComponentType.LIBRARY,
            name=note["name"],
            version=note["version"],
            supplier=contact.OrganizationalEntity(name="Debian"),
            purl=purl,
            bom_ref=str(purl),
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=note["sha256"])],
        )


def _debian_purl(note: Mapping[str, str]) -> packageurl.PackageURL:
    qualifiers = {
        "arch": note["architecture"],
        "distro": _DISTRIBUTIONS[note["name"] in rootfs.NEWER],
    }
    if note["source"] != note["name"]:
        qualifiers["upstream"] = f"{note['source']}@{note['source_version']}"
    return packageurl.PackageURL(
        "deb", "debian", note["name"], note["version"], qualifiers=qualifiers
    )


def python(root: pathlib.Path) -> Iterator[component.Component]:
    """Return Python's distributions in the files of a root."""
    hashes = dict(downloads(root))
    found = importlib.metadata.distributions(path=[str(root / rootfs.SITE)])
    for each in sorted(found, key=lambda each: rootfs.canonical(each.name)):
        name = rootfs.canonical(each.name)
        purl = packageurl.PackageURL("pypi", name=name, version=each.version)
        digest = hashes.get(name)
        expression = each.metadata.json.get("license_expression")
        yield component.Component(
            type=component.ComponentType.LIBRARY,
            name=name,
            version=each.version,
            purl=purl,
            bom_ref=str(purl),
            licenses=[licences.LicenseExpression(str(expression))] if expression else [],
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)] if digest else [],
        )


def downloads(root: pathlib.Path) -> Iterator[tuple[str, str]]:
    """Return the name and the SHA-256 of each wheel that was installed into a root."""
    report = json.loads(root.with_name(f"{root.name}.wheels.json").read_text())
    for each in report["install"]:
        hashes = each["download_info"]["archive_info"]["hashes"]
        yield rootfs.canonical(each["metadata"]["name"]), hashes["sha256"]
