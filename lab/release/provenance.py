"""Where a release comes from: an in-toto statement with SLSA's provenance predicate, version 1.

It names the commit, and what was downloaded. It says no time and no machine: it is the same for
all who make the release of the same packages.
"""

from collections.abc import Sequence
from typing import Any

from lab.release import bills, documents, platforms, sources
from lab.samples import pushing

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:uimgacc:make-release:v1"


def make(images: Sequence[platforms.Image], index: bytes, version: sources.Version) -> bytes:
    """Return the statement about the index and the image of each platform."""
    subjects = [_subject("index", pushing.sha256(index))]
    subjects += [_subject(f"linux/{each.architecture}", each.digest) for each in images]
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": subjects,
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate(images, version),
    }
    return documents.pretty(statement)


def _subject(name: str, digest: str) -> dict[str, Any]:
    return {"name": f"{documents.REPOSITORY} {name}", "digest": _digest(digest)}


def _digest(digest: str) -> dict[str, str]:
    kind, _, value = digest.partition(":")
    return {kind: value}


def predicate(images: Sequence[platforms.Image], version: sources.Version) -> dict[str, Any]:
    """Return the predicate: how the images were made, and of what."""
    commit = {"name": "source", "digest": {"gitCommit": version.commit}}
    dependencies = {
        str(part.purl): {"uri": str(part.purl), "digest": {"sha256": digest.content}}
        for each in images
        for part in (*bills.debian(each.root), *bills.python(each.root))
        for digest in part.hashes
    }
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {"version": version.text, "commit": version.commit},
            "resolvedDependencies": [commit, *(dependencies[key] for key in sorted(dependencies))],
        },
        "runDetails": {"builder": {"id": BUILD_TYPE}},
    }
