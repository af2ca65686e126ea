"""Takes what looks like a credential out of texts and objects; pure.

Nothing knows all secrets, so in doubt a value goes: what a maintainer misses can be asked for.
A value that was taken out by its name in one place is taken out everywhere else as well, also in
base64: a password of an environment variable may be in a log. Secrets are never read in the first
place (agent.cli.bugreport.cluster_material).
"""

import base64
import binascii
import functools
import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

MASK = "REDACTED"

_WORDS = frozenset(
    {
        *("password", "passwd", "passphrase", "pass", "pwd", "secret", "token", "credential"),
        *("credentials", "auth", "authorization", "cookie", "apikey", "accesskey", "secretkey"),
        *("privatekey", "identitytoken", "registrytoken", "sas", "bearer", "sig", "signature"),
    }
)
_PAIRS = frozenset(
    {
        *("apikey", "accesskey", "secretkey", "privatekey", "signingkey", "keydata"),
        *("accountkey", "encryptionkey", "masterkey", "sharedkey", "storagekey"),
    }
)
_ENDINGS = ("password", "passwd", "passphrase", "sshpass", "secret", "token")
"""Of words that are written without a break: PGPASSWORD."""
_ABOUT = frozenset(
    {
        *("name", "names", "namespace", "ref", "file", "path", "seconds", "policy", "type", "kind"),
        *("projection", "expiration", "mode", "optional", "url", "urls", "server", "realm"),
    }
)
"""Words after which a value is about a credential, and is none: secretName, tokenFile."""

_PLAIN = frozenset({"", "true", "false", "null", "none", "nil", "{", "[", "{}", "[]", MASK})
_HEADERS = re.compile(
    r"(?im)^[ \t]*(\[[^\]\n]{0,300}header[^\n]{0,300}\][ \t]*\n)((?:(?![ \t]*\[)[^\n]*\n?)*)"
)
_SPLIT = re.compile(r"[^A-Za-z0-9]+|(?<=[a-z0-9])(?=[A-Z])")
_PRIVATE_KEY = re.compile(
    r"-----BEGIN ([A-Z ]*)PRIVATE KEY-----.*?(?:-----END \1PRIVATE KEY-----|\Z)", re.DOTALL
)
_USER_INFO = re.compile(r"(?P<scheme>\b[a-zA-Z][a-zA-Z0-9+.-]{0,20}://)(?P<user>[^\s/@\"'<>]+)@")
_SCHEMES = re.compile(
    r"(?i)\b(bearer|basic|negotiate|digest|aws4-hmac-sha256)([ \t]+)([^\s\"'\\,]{4,})"
)
_TOKENS = re.compile(
    r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"  # JSON Web Tokens
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\bgh[pousr]_\w{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}"
    r"|\bLTAI[0-9A-Za-z]{12,}\b|\bAKID[0-9A-Za-z]{16,}\b"
)
_BLOCK = re.compile(
    r"(?m)^(?P<indent>[ \t]*)(?:- )?[\"']?(?P<key>[A-Za-z][\w.-]{0,100})[\"']?[ \t]*:"
    r"[ \t]*[|>][-+\d]*[ \t]*\n"
    r"(?P<value>(?:(?P=indent)[ \t]+[^\n]*(?:\n|\Z)|[ \t]*\n)+)"
)
_PAIR = re.compile(
    r"(?P<key>[A-Za-z][\w.-]{0,100})(?P<sep>\\*[\"']?[ \t]*[:=][ \t]*)"
    r"(?P<value>\\*\"(?:[^\"\\\n]|\\(?!\")[^\n])*\\*\"|'[^'\n]*'|\[[^\]\n]*\]"
    r"|(?<==)[^\s&,;\"'}\])]+|[^\n\"'}\]&,]+)"
)
_FLAG = re.compile(
    r"(?P<flag>--(?P<key>[A-Za-z][\w-]{0,100}))(?P<sep>[ \t]+)(?P<value>[^\s-][^\s]*)"
)
_LOGIN_FLAG = re.compile(
    r"(?P<before>\blogin\b[^\n;|&]{0,200}?[ \t]-p[ \t=]?)(?P<value>[^\s-][^\s]*)"
)
"""As in `docker login -u robot -p PASSWORD`."""
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{16,}={0,2}")
_LOGIN = re.compile(r"[\w.@-]{1,64}:[^\s:/]{4,200}")
_LEAST = 6
_MOST_KNOWN = 500
_DEPTH = 2
_MOST_WITHIN = 20

_DROPPED = frozenset({"managedFields", "kubectl.kubernetes.io/last-applied-configuration"})
"""Of each object: it says again what the object says, in a form that hides it."""


@functools.lru_cache(maxsize=4096)
def is_credential(name: str) -> bool:
    """Whether a value under this name is taken for a credential."""
    words = [word.lower() for word in _SPLIT.split(name) if word]
    if not words or words[-1] in _ABOUT:
        return False
    pairs = (first + second for first, second in itertools.pairwise(words))
    if not _WORDS.isdisjoint(words) or not _PAIRS.isdisjoint(pairs):
        return True
    return any(word.endswith(_ENDINGS) for word in words)


class Redactor:
    """Takes credentials out, and remembers them, for `known` to take them out everywhere."""

    def __init__(self) -> None:
        self._known: dict[str, None] = {}
        self._within = 0

    def text(self, text: str) -> str:
        """A text without what looks like a credential."""
        return self._text(text, _DEPTH)

    def value(self, value: Any) -> Any:
        """The same of a value of JSON, such as an object of Kubernetes."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {key: self._member(str(key), each, value) for key, each in _kept(value)}
        if isinstance(value, list | tuple):
            return self._list(list(value))
        return value

    def known(self, data: bytes) -> bytes:
        """A file without the credentials that were met in any other."""
        if not self._known:
            return data
        # The longest first: one may be a part of another.
        forms = sorted({form for secret in self._known for form in _forms(secret)}, key=len)
        for form in reversed(forms):
            data = data.replace(form.encode(), MASK.encode())
        text = data.decode(errors="replace")
        return _BASE64.sub(self._hidden, text).encode()

    def _hidden(self, match: re.Match[str]) -> str:
        decoded = _decoded(match[0])
        found = bool(decoded) and any(secret in decoded for secret in self._known)
        return MASK if found else match[0]

    def _text(self, text: str, depth: int) -> str:
        text = _PRIVATE_KEY.sub(MASK, text)
        text = _HEADERS.sub(self._headers, text)
        text = _USER_INFO.sub(self._user_info, text)
        text = _BLOCK.sub(self._block, text)
        text = _SCHEMES.sub(self._scheme, text)
        text = _TOKENS.sub(self._token, text)
        text = _PAIR.sub(self._pair, text)
        text = _FLAG.sub(self._flag, text)
        text = _LOGIN_FLAG.sub(self._login_flag, text)
        if depth:
            text = _BASE64.sub(lambda match: self._base64(match, depth), text)
        return text

    def _headers(self, match: re.Match[str]) -> str:
        """Headers of mirrors in a hosts.toml: any of them may be a credential."""
        lines = []
        for line in match[2].splitlines(keepends=True):
            key, equals, value = line.partition("=")
            for each in re.findall(r"\"([^\"]+)\"", value):
                self._note(each.removeprefix("Basic ").removeprefix("Bearer "))
            ending = "\n" if line.endswith("\n") else ""
            lines.append(f'{key}= "{MASK}"{ending}' if equals else line)
        return match[1] + "".join(lines)

    def _user_info(self, match: re.Match[str]) -> str:
        self._note(match["user"].partition(":")[2])
        return f"{match['scheme']}{MASK}@"

    def _block(self, match: re.Match[str]) -> str:
        if not is_credential(match["key"]):
            return match[0]
        for line in match["value"].splitlines():
            self._note(line.strip())
        start = match[0][: match.start("value") - match.start()]
        return f"{start}{match['indent']}  {MASK}\n"

    def _scheme(self, match: re.Match[str]) -> str:
        # "basic authentication" is two words of a sentence.
        if match[3].isalpha() and match[3].islower():
            return match[0]
        self._note(match[3])
        return f"{match[1]}{match[2]}{MASK}"

    def _token(self, match: re.Match[str]) -> str:
        self._note(match[0])
        return MASK

    def _pair(self, match: re.Match[str]) -> str:
        value = match["value"]
        bare = value.strip().strip("\\").strip("\"'").strip("\\").strip()
        if not is_credential(match["key"]):
            # What follows may have a credential of its own: `error: token=...`.
            return f"{match['key']}{match['sep']}{self._again(value)}"
        if bare.lower() in _PLAIN:
            return match[0]
        self._note(bare)
        quote = re.match(r"\\*[\"']", value)
        mark = quote[0] if quote else ""
        return f"{match['key']}{match['sep']}{mark}{MASK}{mark}"

    def _again(self, value: str) -> str:
        if len(value) <= _LEAST:
            return value
        if self._within == _MOST_WITHIN:
            return MASK
        self._within += 1
        try:
            return _PAIR.sub(self._pair, value)
        finally:
            self._within -= 1

    def _login_flag(self, match: re.Match[str]) -> str:
        self._note(match["value"])
        return f"{match['before']}{MASK}"

    def _flag(self, match: re.Match[str]) -> str:
        if not is_credential(match["key"]) or match["value"] in _PLAIN:
            return match[0]
        self._note(match["value"])
        return f"{match['flag']}{match['sep']}{MASK}"

    def _base64(self, match: re.Match[str], depth: int) -> str:
        decoded = _decoded(match[0])
        if not decoded:
            return match[0]
        if _LOGIN.fullmatch(decoded):
            self._note(decoded.partition(":")[2])
            return MASK
        return match[0] if self._text(decoded, depth - 1) == decoded else MASK

    def _member(self, key: str, value: Any, whole: Mapping[Any, Any]) -> Any:
        # {"name": "PASSWORD", "value": "..."} of a container's environment.
        named = str(whole.get("name", "")) if key == "value" else key
        if not is_credential(named):
            return self.value(value)
        if isinstance(value, str):
            if value.strip().lower() in _PLAIN:
                return value
            self._remember(value)
            return MASK
        if isinstance(value, Mapping | list | tuple):
            return self.value(value)
        return value

    def _list(self, values: list[Any]) -> list[Any]:
        """["--password", "..."] are arguments of a program."""
        result: list[Any] = []
        masks = False
        for each in values:
            if masks and isinstance(each, str) and not each.startswith("-"):
                self._remember(each)
                result.append(MASK)
            else:
                result.append(self.value(each))
            flag = each if isinstance(each, str) and each.startswith("-") else ""
            masks = bool(flag) and "=" not in flag and is_credential(flag)
        return result

    def _note(self, value: str) -> None:
        """Remember what was found in a text, unless it is a sentence: `token: unexpected EOF`."""
        if not any(each.isspace() for each in value):
            self._remember(value)

    def _remember(self, secret: str) -> None:
        """Unless it is a word that may as well stand somewhere else."""
        secret = secret.strip()
        if MASK in secret:
            return
        is_word = secret.isalpha() and secret == secret.lower()
        if len(secret) < _LEAST or secret.lower() in _PLAIN or secret.isdigit():
            return
        if (is_word and len(secret) < 2 * _LEAST) or len(self._known) >= _MOST_KNOWN:
            return
        self._known[secret] = None
        # Of a docker config or a Secret: what it is, in clear.
        if (decoded := _decoded(secret)) and _LOGIN.fullmatch(decoded):
            self._known[decoded.partition(":")[2]] = None


def _kept(value: Mapping[Any, Any]) -> Iterator[tuple[Any, Any]]:
    return ((key, each) for key, each in value.items() if key not in _DROPPED)


def _forms(secret: str) -> Iterator[str]:
    """A secret as it may stand in a file: as it is, in JSON, in base64."""
    yield secret
    escaped = secret.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    if escaped != secret:
        yield escaped
    encoded = base64.b64encode(secret.encode()).decode()
    yield encoded
    yield encoded.rstrip("=")
    yield encoded.rstrip("=").replace("+", "-").replace("/", "_")


def _decoded(text: str) -> str:
    """What a text means in base64, where that is a text as well; "" else."""
    bare = text.rstrip("=").replace("-", "+").replace("_", "/")
    if len(bare) % 4 == 1:
        return ""
    try:
        decoded = base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""
    return decoded if all(each.isprintable() or each in "\r\n\t" for each in decoded) else ""
