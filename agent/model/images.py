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


_MACHINES = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armv7l": ("arm", "v7"),
    "ppc64le": ("ppc64le", ""),
    "s390x": ("s390x", ""),
    "riscv64": ("riscv64", ""),
}


def platform_of_machine(machine: str) -> Platform:
    """The platform of a Linux machine, from what uname calls it (`x86_64`)."""
    architecture, variant = _MACHINES.get(machine, (machine, ""))
    return Platform("linux", architecture, variant)


def parse_platform(text: str) -> Platform:
    """Parse `linux/arm64` or `linux/arm/v7`; arm64's variant v8 is its default and dropped."""
    parts = text.split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise ImageReferenceError(text, "a platform is os/architecture or os/architecture/variant")
    variant = parts[2] if len(parts) == 3 else ""
    if parts[1] == "arm64" and variant == "v8":
        variant = ""
    return Platform(parts[0], parts[1], variant)
