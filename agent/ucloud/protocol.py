"""UCloud's API for image acceleration: requests, signatures, answers; pure.

Five actions of `api.ucloud.cn`, as the script uimgacc.py of their repository uses
them through ucloud-sdk-python3: a form with `Action`, parameters, `PublicKey` and
`Signature`; the answer is JSON with `RetCode`, 0 where it was done, else with `Message`.

The signature is of names and values without anything between them: `Image=app:v1LTS` and
`Image=app:v1` with a parameter `LTS` that is empty have the same. So a request is accepted only
if no other one that would be accepted has its text: every name must be known to the action, and
no value may contain the name of a parameter that could have begun there.
"""

import dataclasses
import enum
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Any

from agent import errors
from agent.model import images


class RetCode(enum.IntEnum):
    """Why a request failed. The official SDK retries codes above 2000."""

    UNAVAILABLE = 150
    MISSING_ACTION = 160
    UNKNOWN_ACTION = 161
    MISSING_SIGNATURE = 170
    WRONG_SIGNATURE = 171
    UNKNOWN_KEY = 172
    MISSING_PARAMETER = 220
    WRONG_PARAMETER = 230
    NOT_ENABLED = 1001
    NOT_FOUND = 1002
    ALREADY_THERE = 1003
    BUSY = 2001


class ApiError(errors.PermanentError):
    """The error that the caller gets instead of a result. `code` is for programs."""

    def __init__(self, code: RetCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class Status(enum.Enum):
    """The status of a cluster. There is only one, and so one operation at a time."""

    READY = "Ready"
    CREATING = "Creating"
    CREATE_ERROR = "CreateError"
    DELETING = "Deleting"
    DELETE_ERROR = "DeleteError"
    UNKNOWN = "Unknown"


_COMMON = frozenset(
    {"Action", "ClusterId", "ProjectId", "PublicKey", "Region", "SecurityToken", "Signature"}
)
"""What UCloud's SDKs add to every request, and the script of UCloud to each of these."""

_PARAMETERS: Mapping[str, frozenset[str]] = {
    "EnableUK8SImageAccelerate": frozenset({"NfsAddr", "SubnetId", "UHubPassword", "UHubUsername"}),
    "GetUK8SImageAccelerate": frozenset(),
    "CreateUK8SImageAccelerate": frozenset({"OriginalImage", "TargetImage"}),
    "DeleteUK8SImageAccelerate": frozenset({"Image"}),
    "DisableUK8SImageAccelerate": frozenset(),
}

_MAY_BE_EMPTY = frozenset({"ProjectId", "Region", "SubnetId", "UHubPassword", "UHubUsername"})
"""What the configuration of UCloud's script has as "" until it is filled in, and then sends."""

BUSY = frozenset({Status.CREATING, Status.DELETING})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Enable:
    """Switch acceleration on. `nfs` is the store's server, the rest is for UHub."""

    nfs: str
    subnet: str = ""
    username: str = ""
    password: str = dataclasses.field(default="", repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Get:
    """Read the situation."""


@dataclasses.dataclass(frozen=True, slots=True)
class Create:
    """Build `original` and give it the other name `target`, with a tag."""

    original: images.Reference
    target: images.Reference


@dataclasses.dataclass(frozen=True, slots=True)
class Delete:
    """Delete what was built of `original`."""

    original: images.Reference


@dataclasses.dataclass(frozen=True, slots=True)
class Disable:
    """Switch acceleration off."""


Request = Enable | Get | Create | Delete | Disable


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Accelerated:
    """A Ready image; `size` is that of the original in bytes."""

    original: str
    target: str
    size: int = 0
    layers: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """Everything that GetUK8SImageAccelerate returns."""

    enabled: bool = False
    nfs_ready: bool = False
    agent_ready: bool = False
    status: Status = Status.UNKNOWN
    error: str = ""
    images: Sequence[Accelerated] = ()
    subnet: str = ""
    nfs: str = ""


def signature(parameters: Mapping[str, str], private_key: str) -> str:
    """SHA-1 of names and values in the order of the names, and of the private key."""
    text = "".join(f"{key}{parameters[key]}" for key in sorted(parameters) if key != "Signature")
    # UCloud's choice. The key is long, and collisions do not matter.
    return hashlib.sha1(f"{text}{private_key}".encode()).hexdigest()  # noqa: S324


def authenticate(parameters: Mapping[str, str], keys: Mapping[str, str]) -> None:
    """Raise ApiError unless a known key has signed this; `keys` are private by public."""
    signed = parameters.get("Signature", "")
    public = parameters.get("PublicKey", "")
    if not signed or not public:
        raise ApiError(RetCode.MISSING_SIGNATURE, "Missing signature")
    if public not in keys:
        raise ApiError(RetCode.UNKNOWN_KEY, "PublicKey is not known")
    wanted = signature(parameters, keys[public])
    if not hmac.compare_digest(wanted.encode(), signed.encode("utf-8", "replace")):
        raise ApiError(RetCode.WRONG_SIGNATURE, "Signature VerifyAC Error")


def parse(parameters: Mapping[str, str]) -> Request:
    """Read a request; raise ApiError, which names the parameter."""
    action = parameters.get("Action", "")
    if not action:
        raise ApiError(RetCode.MISSING_ACTION, "Missing Action")
    if action in _PARAMETERS:
        _check_framing(parameters, _COMMON | _PARAMETERS[action])
    match action:
        case "EnableUK8SImageAccelerate":
            return _enable(parameters)
        case "GetUK8SImageAccelerate":
            return Get()
        case "CreateUK8SImageAccelerate":
            return _create(parameters)
        case "DeleteUK8SImageAccelerate":
            return Delete(_image(parameters, "Image"))
        case "DisableUK8SImageAccelerate":
            return Disable()
        case _:
            raise ApiError(RetCode.UNKNOWN_ACTION, f"Action [{action[:64]}] is not known")


def _check_framing(parameters: Mapping[str, str], known: frozenset[str]) -> None:
    """Raise ApiError where another request could have the same text to be signed.

    Names are signed in their order, so only a later one can begin within a value; and a
    request always has PublicKey, so nothing that comes after it can begin before it. The
    action is one of five, none of which begins like another.
    """
    for name, value in parameters.items():
        if name not in known:
            raise ApiError(RetCode.WRONG_PARAMETER, f"Params [{name[:64]}] is not known")
        if not value and name not in _MAY_BE_EMPTY:
            raise ApiError(RetCode.MISSING_PARAMETER, f"Missing params [{name}]")
        for other in sorted(known) if name != "Action" else ():
            could_begin = name < other and (other <= "PublicKey" or name >= "PublicKey")
            if could_begin and other in value:
                raise ApiError(RetCode.WRONG_PARAMETER, f"Params [{name}] must not contain {other}")


def _enable(parameters: Mapping[str, str]) -> Enable:
    username = parameters.get("UHubUsername", "")
    password = parameters.get("UHubPassword", "")
    if ":" in username:
        raise ApiError(RetCode.WRONG_PARAMETER, "Params [UHubUsername] must not contain a colon")
    if bool(username) != bool(password):
        missing = "UHubPassword" if username else "UHubUsername"
        raise ApiError(RetCode.MISSING_PARAMETER, f"Missing params [{missing}]")
    return Enable(
        nfs=_required(parameters, "NfsAddr"),
        subnet=parameters.get("SubnetId", ""),
        username=username,
        password=password,
    )


def _create(parameters: Mapping[str, str]) -> Create:
    original = _image(parameters, "OriginalImage")
    target = _image(parameters, "TargetImage")
    if target.digest or not target.tag:
        raise ApiError(RetCode.WRONG_PARAMETER, "Params [TargetImage] needs a tag, and no digest")
    if target == original:
        raise ApiError(
            RetCode.WRONG_PARAMETER, "Params [TargetImage] must have another tag than OriginalImage"
        )
    return Create(original, target)


def _image(parameters: Mapping[str, str], name: str) -> images.Reference:
    try:
        return images.parse_reference(_required(parameters, name))
    except images.ImageReferenceError as error:
        message = f"Params [{name}] not available: {error}"
        raise ApiError(RetCode.WRONG_PARAMETER, message) from error


def _required(parameters: Mapping[str, str], name: str) -> str:
    value = parameters.get(name, "").strip()
    if not value:
        raise ApiError(RetCode.MISSING_PARAMETER, f"Missing params [{name}]")
    return value


def done(action: str) -> dict[str, Any]:
    """The answer to an action that has begun or is done."""
    return {"Action": f"{action}Response", "RetCode": 0}


def refused(action: str, code: RetCode, message: str) -> dict[str, Any]:
    """The answer to a request that failed."""
    return {"Action": f"{action}Response", "RetCode": int(code), "Message": message}


def described(action: str, situation: Situation) -> dict[str, Any]:
    """The answer to Get. During an operation it has no images, as in UCloud's cloud."""
    shown = situation.images if situation.agent_ready and situation.status not in BUSY else ()
    return done(action) | shape(dataclasses.replace(situation, images=shown))


def shape(situation: Situation) -> dict[str, Any]:
    """A situation with UCloud's field names."""
    return {
        "Enable": situation.enabled,
        "NfsReady": situation.nfs_ready,
        "AgentReady": situation.agent_ready,
        "Status": situation.status.value,
        "Error": situation.error,
        "Images": [
            {
                "OriginalImage": each.original,
                "TargetImage": each.target,
                "Size": each.size,
                "Layers": each.layers,
            }
            for each in situation.images
        ],
        "SubnetId": situation.subnet,
        "NfsAddr": situation.nfs,
    }
