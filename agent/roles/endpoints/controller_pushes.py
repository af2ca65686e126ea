"""The endpoint for registries' notifications: all controllers answer, the leader looks tags up."""

import asyncio
import contextlib
import logging

from agent import errors
from agent.clients.kube import connection, rest_client
from agent.control.pushes import leader_handover, push_server, push_tokens
from agent.control.reconcile import leader_election
from agent.control.tags import tag_hints
from agent.kits import addresses
from agent.kits.aio import tasks
from agent.kits.web import listener, tls
from agent.model import keys
from agent.roles.endpoints import served_certificate
from agent.settings import controller_settings

logger = logging.getLogger(__name__)


async def run(
    wanted: controller_settings.Controller,
    credentials: connection.Credentials,
    *,
    hints: tag_hints.Hints,
    election: leader_election.Election,
) -> None:
    """Serve for ever; where no address is set, wait."""
    if not wanted.push_listen:
        await asyncio.Event().wait()
    if wanted.push_tokens is None:
        raise errors.PermanentError("--push-listen needs --push-tokens")
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(
            rest_client.Client(credentials, deadline=wanted.api_seconds, user_agent=keys.CONTROLLER)
        )
        certificate = tls.Certificate(wanted.push_tls) if wanted.push_tls is not None else None
        handover = leader_handover.Handover(
            client,
            lambda: election.leader,
            namespace=wanted.namespace,
            port=addresses.split(wanted.push_listen)[1],
            encrypted=certificate is not None,
        )
        endpoint = push_server.Endpoint(
            push_tokens.Tokens(wanted.push_tokens), hints, handover, leads=lambda: election.leading
        )
        where = await stack.enter_async_context(
            listener.serving(
                endpoint.application(),
                wanted.push_listen,
                tls=certificate.context if certificate is not None else None,
                without_host="",
            )
        )
        logger.info("listening for notifications of registries", extra={"address": where})
        await tasks.run_services(
            {"certificate": served_certificate.renew(certificate)}, asyncio.Event()
        )
