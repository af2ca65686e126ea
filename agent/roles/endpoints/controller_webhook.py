"""The admission webhook of the controller: every controller answers, whether it leads or not."""

import asyncio
import contextlib
import logging

from agent.clients.kube import connection, rest_client
from agent.control.admission import (
    certificate_rounds,
    certificates,
    twin_classes,
    webhook_server,
)
from agent.kits.aio import tasks
from agent.kits.web import listener, tls
from agent.matching import pod_moves
from agent.model import keys
from agent.settings import controller_settings

logger = logging.getLogger(__name__)


async def run(wanted: controller_settings.Controller, credentials: connection.Credentials) -> None:
    """Serve for ever; where no address is set, wait."""
    if not wanted.webhook_listen:
        await asyncio.Event().wait()
    certificate = tls.MemoryCertificate()

    def use(current: certificates.Certificates) -> None:
        certificate.use(current.server_pem, current.server_key_pem)

    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(
            rest_client.Client(credentials, deadline=wanted.api_seconds, user_agent=keys.CONTROLLER)
        )
        twins = twin_classes.TwinClasses(client)
        rounds = certificate_rounds.CertificateRounds(
            client, namespace=wanted.namespace, use=use, clock=client.now
        )
        webhook = webhook_server.Webhook(
            twins.all, left_out=pod_moves.LEFT_OUT | {wanted.namespace}
        )
        await rounds.prepare()
        where = await stack.enter_async_context(
            listener.serving(
                webhook.application(),
                wanted.webhook_listen,
                tls=certificate.context,
                without_host="",
            )
        )
        logger.info("the webhook is listening", extra={"address": where})
        services = {"runtime classes": twins.run(), "certificate": rounds.run()}
        await tasks.run_services(services, asyncio.Event())
