"""Image references and platforms, normalised as containerd and the kubelet do.

Source of the grammar: distribution/reference (`ParseNormalizedNamed`), OCI
distribution-spec v1.1.
"""

import dataclasses
import re

from agent import errors

DEFAULT_REGISTRY = "docker.io"

_DOMAIN = re.compile(
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*"
    r"|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
)
_REPOSITORY = re.compile(
    r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class ImageReferenceError(errors.PermanentError):
    """A string that should be an image reference is none.

    `text` is the string as it came, `reason` what is wrong with it.
    """

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(f"not an image reference: {text[:300]!r}: {reason}")
        self.text = text
        self.reason = reason


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Reference:
    """A normalised reference: `docker.io/library/nginx:1.27` in parts.

    Exactly as in containerd, `tag` is "latest" when the text named neither a tag
    nor a digest, and "" when it named a digest only.
    """

    registry: str
    repository: str
    tag: str
    digest: str = ""

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.registry}/{self.repository}{tag}{digest}"

    @property
    def name(self) -> str:
        """Registry and repository, without tag and digest."""
        return f"{self.registry}/{self.repository}"

    @property
    def version(self) -> str:
        """What selects the manifest: the digest where there is one, else the tag."""
        return self.digest or self.tag


def parse_reference(text: str) -> Reference:
    """Parse what a user writes in `image:`; raise ImageReferenceError where it is none."""
    rest = text.strip()
    rest, _, digest = rest.partition("@")
    if "@" in text and not _DIGEST.fullmatch(digest):
        raise ImageReferenceError(text, "the part after @ is not sha256:<64 hex digits>")
    name, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:
        name, tag = rest, ""
    elif not _TAG.fullmatch(tag):
        raise ImageReferenceError(text, "the tag has characters that no tag may have")
    registry, repository = _split_registry(name)
    if not _DOMAIN.fullmatch(registry):
        raise ImageReferenceError(text, f"{registry!r} is not a registry host")
    if not _REPOSITORY.fullmatch(repository):
        raise ImageReferenceError(
            text, "a repository is lower-case letters and digits, with . _ - / between them"
        )
    if not tag and not digest:
        tag = "latest"
    return Reference(registry=registry, repository=repository, tag=tag, digest=digest)


def _split_registry(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        first, rest = DEFAULT_REGISTRY, name
    if first == "index.docker.io":
        first = DEFAULT_REGISTRY
    if first == DEFAULT_REGISTRY and "/" not in rest:
        rest = f"library/{rest}"
    return first, rest


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Platform:
    """An operating system and processor, in the OCI's (Go's) words."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


_ARCHITECTURES = {
    "i386": "386",
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "armhf": "arm",
    "armel": "arm",
    "armv7l": "arm",
}
_VARIANTS = {
    ("amd64", "v1"): "",
    ("arm64", "8"): "",
    ("arm64", "v8"): "",
    ("arm64", "v8.0"): "",
    ("arm64", "9"): "v9",
    ("arm64", "9.0"): "v9",
    ("arm64", "v9.0"): "v9",
    ("arm", ""): "v7",
    ("arm", "5"): "v5",
    ("arm", "6"): "v6",
    ("arm", "7"): "v7",
    ("arm", "8"): "v8",
}


def normalised(os: str, architecture: str, variant: str = "") -> Platform:
    """A platform in the one spelling that containerd compares (containerd/platforms, Normalize)."""
    os, name, variant = os.lower() or "linux", architecture.lower(), variant.lower()
    architecture = _ARCHITECTURES.get(name, name)
    if name in ("i386", "armhf", "armel"):
        variant = {"armhf": "v7", "armel": "v6"}.get(name, "")
    return Platform(os, architecture, _VARIANTS.get((architecture, variant), variant))


def compatible(platform: Platform) -> list[Platform]:
    """The platforms whose images containerd runs on this one, the nearest first.

    Source: containerd/platforms, platformVector.
    """
    wanted = normalised(platform.os, platform.architecture, platform.variant)
    below: list[tuple[str, str]] = []
    if wanted.architecture == "amd64":
        below = [("amd64", f"v{version}") for version in range(_version(wanted) - 1, 0, -1)]
        below.append(("386", ""))
    elif wanted.architecture == "arm":
        below = [("arm", f"v{version}") for version in range(_version(wanted) - 1, 4, -1)]
    elif wanted.architecture == "arm64":
        below = [("arm64", variant) for variant in _arm64_below(wanted.variant)]
        below += [("arm", f"v{version}") for version in (8, 7, 6, 5)]
    return [wanted, *(normalised(wanted.os, *pair) for pair in below)]


def _version(platform: Platform) -> int:
    text = platform.variant.removeprefix("v")
    return int(text) if text.isdecimal() else 0


def _arm64_below(variant: str) -> list[str]:
    """Versions of ARM's architecture that one includes: 9.n has all of 8.(n + 5)."""
    major, _, minor = (variant or "v8").removeprefix("v").partition(".")
    at = int(minor) if minor.isdecimal() else 0
    if major not in ("8", "9"):
        return []
    names = [f"v{major}.{number}" for number in range(at - 1, -1, -1)]
    if major == "9":
        names += [f"v8.{number}" for number in range(min(at + 5, 9), -1, -1)]
    return names


def platform_of_machine(machine: str) -> Platform:
    """The platform of a Linux machine, from what uname calls it (`x86_64`)."""
    return normalised("linux", machine)


def parse_platform(text: str) -> Platform:
    """Parse `linux/arm64` or `linux/arm/v7`; the variant that is the default is dropped."""
    parts = text.split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise ImageReferenceError(text, "a platform is os/architecture or os/architecture/variant")
    return normalised(*parts)
