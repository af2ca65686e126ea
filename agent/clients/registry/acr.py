"""Pulling from Alibaba Cloud Container Registry (Enterprise Edition) without a pull secret.

An ImageCache names the instances (`k8s.aliyun.com/acr-instance-ids`); the API of
Container Registry (2018-12-01, GetAuthorizationToken) gives a user and a password
for each that live for an hour. The account is looked up as in every official SDK:
environment, RRSA's OIDC token, the ECS instance's role.

The password goes to hosts of that instance only: to Alibaba's own names of its
region, or to a custom domain that the API lists for the instance. Where the API
does not say whether a host is such a domain, it gets no password, as a host of another owner;
the reason is part of the registry's refusal, if there is one.

The SDK is the extra `acr`. It is imported at the first question: it takes 0.6 s.
"""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any
from urllib import parse as urls

from agent import errors
from agent.clients.registry import acr_domains, credentials
from agent.model import images

_RENEW_BEFORE = 15 * 60.0
"""Seconds before its end from which a password is not used any more, but at most ..."""

_RENEW_PART = 0.25
"""... this part of its life."""

_AGAIN = 60.0
"""Seconds until the API is asked again whose a host is, where it gave no answer: a missing account
is looked for at several places, and a cache has up to twenty images."""


class AcrUnavailable(errors.TemporaryError):
    """The API gave no answer. `instance` is the one that it was about, `reason` what happened."""

    def __init__(self, instance: str, reason: str, *, delay: float | None = None) -> None:
        super().__init__(
            f"no answer of the Container Registry API about {instance}: {reason}", delay=delay
        )
        self.instance = instance
        self.reason = reason


class AcrRefused(errors.PermanentError):
    """The API refuses, or cannot be asked: `reason`. `instance` is the one that it was about."""

    def __init__(self, instance: str, reason: str) -> None:
        super().__init__(f"no password for the Container Registry instance {instance}: {reason}")
        self.instance = instance
        self.reason = reason


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to reach the API of Container Registry."""

    region: str = ""
    """Our own region, for instances that are named without one; "": that of the registry's host."""

    network: str = ""
    """"vpc" where there is no way to the Internet."""

    endpoint: str = ""
    """The URL of the API where it is not Alibaba's own for the region."""

    deadline: float = 20.0
    """Seconds for an answer."""


def options_of(environment: Mapping[str, str]) -> Options:
    """The options that the environment of a builder says."""
    return Options(
        region=environment.get("ALIBABA_CLOUD_REGION_ID", ""),
        network=environment.get("UIMGACC_ACR_NETWORK", ""),
        endpoint=environment.get("UIMGACC_ACR_ENDPOINT", ""),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Password:
    """`until` is when to ask for another, on the wall clock: the API names its end so."""

    credential: credentials.Credential
    until: float


class Acr:
    """A CredentialProvider for the instances that a cache names."""

    def __init__(self, instances: Sequence[str], options: Options | None = None) -> None:
        """Raises InstanceError for what names none."""
        self._instances = tuple(map(acr_domains.parse_instance, instances))
        self._options = options or Options()
        self._passwords: dict[str, _Password] = {}
        self._domains: dict[str, frozenset[str]] = {}
        self._unknown: dict[str, tuple[float, str]] = {}
        self._lock = asyncio.Lock()

    async def _password(self, instance: str, region: str) -> credentials.Credential:
        kept = self._passwords.get(instance)
        now = time.time()
        if kept is None or now >= kept.until:
            kept = await self._new_password(instance, region, now=now)
            self._passwords[instance] = kept
        return kept.credential

    async def _new_password(self, instance: str, region: str, *, now: float) -> _Password:
        async with self._asking(instance, region) as (client, models, runtime):
            request = models.GetAuthorizationTokenRequest(instance_id=instance)
            answer = await client.get_authorization_token_with_options_async(request, runtime)
        body = answer.body
        if not body.is_success or not body.temp_username or not body.authorization_token:
            raise AcrRefused(instance, f"the API answers {body.code}")
        credential = credentials.Credential(
            f"Container Registry {instance}", body.temp_username, body.authorization_token
        )
        life = max(0.0, (body.expire_time or 0) / 1000 - now)
        return _Password(credential, now + life - min(_RENEW_BEFORE, life * _RENEW_PART))

    async def _has_domain(self, instance: str, region: str, *, host: str) -> bool:
        """Whether a host is a custom domain of an instance, by the API's own list."""
        if not region:
            raise AcrRefused(instance, f"its region is not known; name it: REGION:{instance}")
        if instance not in self._domains:
            async with self._asking(instance, region) as (client, models, runtime):
                request = models.ListInstanceEndpointRequest(instance_id=instance)
                answer = await client.list_instance_endpoint_with_options_async(request, runtime)
            self._domains[instance] = frozenset(
                each.domain
                for endpoint in answer.body.endpoints or ()
                for each in endpoint.domains or ()
            )
        return host in self._domains[instance]

    async def _fits(self, instance: str, region: str, *, host: str) -> tuple[bool, str]:
        """Whether a custom domain is one of an instance's, or why that is not known."""
        until, reason = self._unknown.get(instance, (0.0, ""))
        if time.monotonic() < until:
            return False, reason
        try:
            return await self._has_domain(instance, region, host=host), ""
        except (AcrUnavailable, AcrRefused) as error:
            self._unknown[instance] = (time.monotonic() + _AGAIN, error.reason)
            return False, error.reason

    @contextlib.asynccontextmanager
    async def _asking(self, instance: str, region: str) -> AsyncIterator[tuple[Any, Any, Any]]:
        """The SDK's client, models and options for one call, its failures translated."""
        try:
            from alibabacloud_cr20181201 import client, models  # noqa: PLC0415 - an extra
            from alibabacloud_credentials import client as account  # noqa: PLC0415
            from alibabacloud_credentials import exceptions as account_errors  # noqa: PLC0415
            from alibabacloud_tea_openapi import exceptions, utils_models  # noqa: PLC0415
            from darabonba import runtime  # noqa: PLC0415
            from Tea import exceptions as tea  # noqa: PLC0415
        except ImportError as error:
            raise AcrRefused(
                instance, "Alibaba's SDK is not installed: pip install 'uimgacc[acr]'"
            ) from error
        api = urls.urlsplit(self._options.endpoint)
        milliseconds = int(self._options.deadline * 1000)
        try:
            config = utils_models.Config(
                credential=account.Client(),
                region_id=region,
                network=self._options.network,
                endpoint=api.netloc or None,
                protocol=api.scheme or "https",
            )
            options = runtime.RuntimeOptions(
                connect_timeout=milliseconds, read_timeout=milliseconds
            )
            async with asyncio.timeout(self._options.deadline):
                yield client.Client(config), models, options
        except exceptions.ThrottlingException as error:
            raise AcrUnavailable(instance, str(error.code), delay=error.retry_after) from error
        except exceptions.ClientException as error:
            # Its message may quote the signed request; the code is what to look up.
            raise AcrRefused(instance, f"the API answers {error.code}") from error
        except account_errors.CredentialException as error:
            raise AcrRefused(instance, _no_account(error)) from error
        except tea.TeaException as error:
            # The SDK wraps every failure between request and response.
            cause = getattr(error, "inner_exception", None)
            if isinstance(cause, account_errors.CredentialException):
                raise AcrRefused(instance, _no_account(cause)) from error
            raise AcrUnavailable(instance, error.code or type(cause or error).__name__) from error
        except (TimeoutError, OSError) as error:
            raise AcrUnavailable(instance, str(error) or "the deadline has passed") from error

    async def credentials(self, reference: images.Reference) -> Sequence[credentials.Credential]:
        """See CredentialProvider. Raises AcrUnavailable, AcrRefused for hosts of an instance."""
        async with self._lock:
            host = reference.registry
            domain = acr_domains.parse_host(host)
            answers = []
            for instance in self._instances:
                # Without a region in the settings it can only be that of the host.
                region = (
                    instance.region or self._options.region or (domain.region if domain else "")
                )
                if domain is not None:
                    fits = bool(domain.instance_name) and region == domain.region
                else:
                    fits, unknown = await self._fits(instance.id, region, host=host)
                    if unknown:
                        answers.append(_nothing(instance.id, unknown))
                if fits:
                    answers.append(await self._password(instance.id, region))
            return answers


def _nothing(instance: str, reason: str) -> credentials.Credential:
    return credentials.Credential(f"Container Registry {instance} (none: {reason})")


def _no_account(error: Exception) -> str:
    return f"no account at Alibaba Cloud: {str(error)[:200]}"
