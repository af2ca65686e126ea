"""The webhook's certificate in the cluster: one Secret for all controllers, and what trusts it.

Every controller reads the Secret each minute, replaces what is due, on condition that no other one
has meanwhile, and puts the bundle of authorities into the MutatingWebhookConfiguration where that
has another one. So none depends on which of them leads.
"""

import asyncio
import base64
import binascii
import datetime
import logging
from collections.abc import Callable

from agent import errors
from agent.clients.kube import refusals, rest_client
from agent.control.admission import certificates
from agent.kits.aio import backoff
from agent.metrics import admission_metrics
from agent.model import keys

logger = logging.getLogger(__name__)

_ROUND = 60.0
_JITTER = 0.2
_PAUSES = (1.0, 2.0, 5.0, 15.0)
_TRIES = 5
_LABELS = {"app.kubernetes.io/name": "uimgacc", "app.kubernetes.io/component": "controller"}


class CertificateRounds:
    """`use` is called with the certificates in each round; `clock` is for their dates."""

    def __init__(
        self,
        api: rest_client.Objects,
        *,
        namespace: str,
        use: Callable[[certificates.Certificates], None],
        clock: Callable[[], datetime.datetime],
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._use = use
        self._clock = clock
        self._names = certificates.names_of(keys.WEBHOOK, namespace)

    async def prepare(self) -> None:
        """Have a certificate; waits for an API server that is away."""
        pauses = backoff.Backoff(_PAUSES)
        while True:
            try:
                await self.round()
            except errors.AgentError as error:
                logger.warning("no certificate yet", extra={"reason": str(error)})
                await pauses.wait(getattr(error, "delay", None))
            else:
                return

    async def run(self) -> None:
        """Keep it, for ever."""
        while True:
            await asyncio.sleep(backoff.spread(_ROUND, _JITTER))
            try:
                await self.round()
            except errors.AgentError as error:
                logger.warning(
                    "the webhook's certificate was not looked at", extra={"reason": str(error)}
                )

    async def round(self) -> None:
        """Read it, replace what is due, use it, publish its authorities.

        Raises AgentError where there is no certificate. One whose authorities cannot be published
        is used all the same: a person may have published them.
        """
        current = await self._kept()
        self._use(current)
        admission_metrics.WEBHOOK_CERTIFICATE_END.set(
            current.server.not_valid_after_utc.timestamp()
        )
        try:
            await self._publish(current.bundle)
        except errors.AgentError as error:
            logger.warning(
                "the webhook's authorities are not published", extra={"reason": str(error)}
            )

    async def _kept(self) -> certificates.Certificates:
        for left in reversed(range(_TRIES)):
            try:
                return await self._kept_once()
            except (refusals.Conflict, refusals.AlreadyExists):
                # Another controller has written it at the same moment.
                if not left:
                    raise
        raise AssertionError

    async def _kept_once(self) -> certificates.Certificates:
        now = self._clock()
        try:
            secret = await self._api.get(
                rest_client.SECRETS, keys.WEBHOOK, namespace=self._namespace
            )
        except refusals.NotFound:
            made = certificates.created(self._names, now)
            await self._api.create(
                rest_client.SECRETS, self._secret(made), namespace=self._namespace
            )
            logger.info("the webhook has a certificate", extra=_dates(made))
            return made
        stored = _read(secret)
        wanted = (
            certificates.created(self._names, now)
            if stored is None
            else certificates.renewed(stored, self._names, now)
        )
        if wanted is stored:
            return wanted
        body = self._secret(wanted)
        patch = {
            "metadata": {"resourceVersion": secret["metadata"]["resourceVersion"]},
            "data": body["data"],
        }
        await self._api.patch(rest_client.SECRETS, keys.WEBHOOK, patch, namespace=self._namespace)
        logger.info("the webhook's certificates were replaced", extra=_dates(wanted))
        return wanted

    def _secret(self, made: certificates.Certificates) -> rest_client.Object:
        data = {
            name: base64.b64encode(part).decode()
            for name, part in certificates.encode(made).items()
        }
        meta = {"name": keys.WEBHOOK, "namespace": self._namespace, "labels": _LABELS}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "data": data}

    async def _publish(self, bundle: bytes) -> None:
        """Have every webhook of the configuration be verified by the bundle."""
        wanted = base64.b64encode(bundle).decode()
        configuration = await self._api.get(
            rest_client.WEBHOOK_CONFIGURATIONS, keys.WEBHOOK_CONFIGURATION
        )
        others = [
            str(webhook["name"])
            for webhook in configuration.get("webhooks") or ()
            if (webhook.get("clientConfig") or {}).get("caBundle") != wanted
        ]
        if not others:
            return
        patch = {
            "metadata": {"resourceVersion": configuration["metadata"]["resourceVersion"]},
            "webhooks": [{"name": name, "clientConfig": {"caBundle": wanted}} for name in others],
        }
        await self._api.patch(
            rest_client.WEBHOOK_CONFIGURATIONS,
            keys.WEBHOOK_CONFIGURATION,
            patch,
            how=rest_client.Patch.STRATEGIC,
        )
        logger.info("the webhook's authorities were published", extra={"webhooks": others})


def _read(secret: rest_client.Object) -> certificates.Certificates | None:
    """The certificates of the Secret; None where they cannot be used: they are made again."""
    try:
        parts = {
            name: base64.b64decode(text, validate=True)
            for name, text in (secret.get("data") or {}).items()
        }
        return certificates.decode(parts)
    except (binascii.Error, ValueError, certificates.CertificatesDamaged) as error:
        logger.warning("the webhook's certificates are made again", extra={"reason": str(error)})
        return None


def _dates(made: certificates.Certificates) -> dict[str, str]:
    return {
        "until": made.server.not_valid_after_utc.isoformat(),
        "authority_until": made.authorities[0].not_valid_after_utc.isoformat(),
    }
