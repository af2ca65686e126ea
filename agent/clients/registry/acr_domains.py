"""Which registry hosts belong to Alibaba Cloud's Container Registry; pure.

Hosts as Alibaba documents them, the pattern as docker-credential-acr-helper has it:
`<instance>-registry[-vpc].<region>.cr.aliyuncs.com` for an Enterprise Edition
instance, `registry[-vpc|-intl].<region>.aliyuncs.com` for the Personal Edition.
"""

import dataclasses
import re

from agent import errors

_HOST = re.compile(
    r"(?:(?P<instance>[^.\s]+)-)?registry(?:-intl)?(?:-vpc)?(?:-internal)?(?:\.distributed)?"
    r"\.(?P<region>[a-z0-9-]+)\.(?:cr\.)?aliyuncs\.com"
)
_INSTANCE = re.compile(r"(?:(?P<region>[a-z]{2,}(?:-[a-z0-9]+)+):)?(?P<id>cri-[a-z0-9]+)")


class InstanceError(errors.PermanentError):
    """What should name an instance does not. `text` is what was written."""

    def __init__(self, text: str) -> None:
        super().__init__(
            f"{text!r} names no Container Registry instance:"
            " expected cri-..., with its region before it where that is another: cn-beijing:cri-..."
        )
        self.text = text


@dataclasses.dataclass(frozen=True, slots=True)
class Instance:
    """An Enterprise Edition instance; `region` is "" where it is that of who asks."""

    id: str
    region: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Domain:
    """A host of Container Registry; `instance_name` is "" for the Personal Edition."""

    region: str
    instance_name: str = ""


def parse_instance(text: str) -> Instance:
    """Read a value of `k8s.aliyun.com/acr-instance-id`; raise InstanceError."""
    match = _INSTANCE.fullmatch(text.strip())
    if match is None:
        raise InstanceError(text)
    return Instance(match["id"], match["region"] or "")


def parse_host(host: str) -> Domain | None:
    """What a registry host says of itself; None for one that is not Alibaba's own name."""
    match = _HOST.fullmatch(host)
    return Domain(match["region"], match["instance"] or "") if match else None
