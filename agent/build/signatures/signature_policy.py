"""The policy file: which images need a signature, and by whom (docs/use/signatures.md).

The first rule that matches an image decides; an image that no rule matches is refused. A pattern is
a host, optionally with a port and a path prefix, as the keys of a docker config are
(agent.clients.registry.credentials); `*` alone matches every image. A pattern that can match no
image is refused: otherwise a later rule, which may need no signature, would decide.
"""

import contextlib
import dataclasses
import pathlib
import re
from collections.abc import Sequence

import msgspec

from agent import errors
from agent.clients.registry import credentials
from agent.model import images

EVERY = "*"

_HOST = re.compile(
    r"(?:[a-z0-9*-]+(?:\.[a-z0-9*-]+)+|localhost|\[[0-9a-f:]+\])(?::[0-9]+)?|[a-z0-9*-]+:[0-9]+"
)
"""The host of a registry as in image references: with a dot or a port, in lower case."""

_ANY_HOST = "registry.invalid"


class PolicyError(errors.PermanentError):
    """The policy cannot be used, so nothing is built. `path` is the file, `reason` the fault."""

    def __init__(self, path: pathlib.Path, reason: str) -> None:
        super().__init__(f"{path} is not a usable signature policy: {reason}")
        self.path = path
        self.reason = reason


@dataclasses.dataclass(frozen=True, slots=True)
class Signer:
    """Whose signature is accepted. `name` is for messages, `arguments` are those of cosign."""

    name: str
    arguments: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Demand:
    """What an image needs: a signature of one of the signers; with `unsigned`, none.

    `pattern` is that of the rule, "" where no rule matches the image.
    """

    pattern: str
    signers: tuple[Signer, ...] = ()
    unsigned: bool = False


class _Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    issuer: str = ""
    issuer_reg_exp: str = ""
    subject: str = ""
    subject_reg_exp: str = ""


class _Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    images: list[str]
    keys: list[str] = []
    identities: list[_Identity] = []
    transparency_log: bool | None = None
    unsigned: bool = False


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    rules: list[_Rule]
    trusted_root: str = ""


# Made in the one thread that imports; see agent.model.records.
_DOCUMENT = msgspec.json.Decoder(_Document)


@dataclasses.dataclass(frozen=True, slots=True)
class _Parsed:
    patterns: tuple[str, ...]
    signers: tuple[Signer, ...]
    unsigned: bool


class Policy:
    """The rules of a file."""

    def __init__(self, rules: Sequence[_Parsed]) -> None:
        self._rules = rules

    def demand(self, reference: images.Reference) -> Demand:
        """What an image needs. All spellings of a registry's name give the same answer."""
        reference = _canonical(reference)
        for rule in self._rules:
            for pattern in rule.patterns:
                if pattern == EVERY or credentials.matches(pattern, reference):
                    return Demand(pattern, rule.signers, rule.unsigned)
        return Demand("")


def _canonical(reference: images.Reference) -> images.Reference:
    """The reference with one spelling of its registry, so that all spellings match one rule."""
    host = reference.registry.lower().removesuffix(":443")
    if host in credentials.DOCKER_HUB:
        host = images.DEFAULT_REGISTRY
    return dataclasses.replace(reference, registry=host)


def read(path: pathlib.Path) -> Policy:
    """The policy of a file; keys and the trusted root are files beside it. Raises PolicyError."""
    try:
        document = _DOCUMENT.decode(msgspec.json.encode(msgspec.yaml.decode(path.read_bytes())))
        return Policy([_parsed(rule, document, path.parent) for rule in document.rules])
    except (OSError, ValueError, RecursionError) as error:
        raise PolicyError(path, " ".join(str(error).split())) from error


def _parsed(rule: _Rule, document: _Document, folder: pathlib.Path) -> _Parsed:
    shown = ", ".join(rule.images)
    if not rule.images or not all(rule.images):
        raise ValueError("a rule without images")
    if rule.unsigned == bool(rule.keys or rule.identities):
        raise ValueError(f"the rule for {shown}: expected keys or identities, or unsigned: true")
    root = _root(document, folder)
    log = bool(rule.transparency_log)
    signers = [_by_key(name, folder, root, log=log) for name in rule.keys]
    if rule.identities and rule.transparency_log is False and not root:
        raise ValueError(f"the rule for {shown}: identities without a log need a trustedRoot")
    signers += [
        _by_identity(each, root, log=rule.transparency_log is not False) for each in rule.identities
    ]
    return _Parsed(tuple(map(_pattern, rule.images)), tuple(signers), rule.unsigned)


def _pattern(text: str) -> str:
    """A pattern as `credentials.matches` reads it; raise ValueError for what matches no image."""
    pattern = text.rstrip("/")
    host, slash, path = pattern.partition("/")
    if pattern == EVERY or (_is_host(host) and (not slash or _is_repository(path))):
        return pattern
    raise ValueError(
        f"no image can match {text!r}: expected the host of a registry in lower case (docker.io for"
        " images without one), with its port if that is not 443, and the beginning of a repository:"
        " no https://, no tag, and * only in a host"
    )


def _is_host(text: str) -> bool:
    return _HOST.fullmatch(text) is not None and not text.endswith(":443")


def _is_repository(text: str) -> bool:
    with contextlib.suppress(images.ImageReferenceError):
        return images.parse_reference(f"{_ANY_HOST}/{text}").name == f"{_ANY_HOST}/{text}"
    return False


def _root(document: _Document, folder: pathlib.Path) -> tuple[str, ...]:
    if not document.trusted_root:
        return ()
    return (f"--trusted-root={_file(document.trusted_root, folder)}",)


def _by_key(name: str, folder: pathlib.Path, root: tuple[str, ...], *, log: bool) -> Signer:
    # Without a transparency log only the registry is asked: offline clusters reach nothing else.
    more = root if log else ("--insecure-ignore-tlog=true",)
    return Signer(f"the key {name}", (f"--key={_file(name, folder)}", *more))


def _by_identity(identity: _Identity, root: tuple[str, ...], *, log: bool) -> Signer:
    parts = [
        _one_of("issuer", "certificate-oidc-issuer", identity.issuer, identity.issuer_reg_exp),
        _one_of("subject", "certificate-identity", identity.subject, identity.subject_reg_exp),
    ]
    name = f"the identity {identity.subject or identity.subject_reg_exp}"
    without = () if log else ("--insecure-ignore-tlog=true", "--insecure-ignore-sct=true")
    return Signer(name, (*parts, *root, *without))


def _one_of(field: str, flag: str, exact: str, pattern: str) -> str:
    if bool(exact) == bool(pattern):
        raise ValueError(f"an identity has either {field} or {field}RegExp")
    if pattern and not pattern.startswith("^"):
        # cosign looks for it anywhere in the certificate's text, which others may have written.
        raise ValueError(
            f"{field}RegExp is refused unless it begins with ^: it would match within others"
        )
    return f"--{flag}={exact}" if exact else f"--{flag}-regexp={pattern}"


def _file(name: str, folder: pathlib.Path) -> pathlib.Path:
    """A file beside the policy. Refuses paths, and URLs from which cosign would fetch a key."""
    if "/" in name or ":" in name or name.startswith("."):
        raise ValueError(f"{name!r} is not the name of a file beside the policy")
    path = folder / name
    if not path.is_file():
        raise ValueError(f"{name}: there is no such file beside the policy")
    return path
