"""`uimgacc agent`: the node agent as a process of its own.

It may be killed at any time: what it has registered stays, running containers do
not depend on it, and unfinished work is done after the next start. Nothing is
unmounted when it ends.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Sequence

import aiohttp.web

from agent import errors
from agent.kits import jsonlog
from agent.kits.aio import tasks
from agent.kits.processes import stop_deadline
from agent.kits.web import listener
from agent.mounts import host_copies
from agent.node.report import status_http
from agent.roles import agent_flags, agent_parts
from agent.settings import agent_settings

logger = logging.getLogger(__name__)


async def run(wanted: agent_settings.Agent) -> None:
    """Serve until SIGTERM. Raises what the services raised, as an ExceptionGroup."""
    if wanted.state is not None:
        wanted.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with stop_deadline.Watchdog(wanted.stop_seconds) as watchdog:
        async with tasks.stop_on_signals() as stop, agent_parts.opened(wanted) as parts:
            app = status_http.application(parts.describe, parts.missing)
            async with (
                _listening(app, wanted.listen),
                _listening(status_http.metrics_application(), wanted.metrics_address),
            ):
                services = {**parts.services(), "watchdog": watchdog.run(stop)}
                try:
                    await tasks.run_services(services, stop)
                finally:
                    watchdog.start()


@contextlib.asynccontextmanager
async def _listening(app: aiohttp.web.Application, address: str) -> AsyncIterator[None]:
    if not address:
        yield
        return
    async with listener.serving(app, address) as where:
        logger.info("listening", extra={"address": where})
        yield


def main(arguments: Sequence[str]) -> int:
    """The command; returns the exit status."""
    wanted = agent_flags.parse(arguments)
    # The library's own log lines about connections are not JSON, and the agent logs the same.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    code = 0
    with jsonlog.to_stderr(logging.DEBUG if wanted.verbose else logging.INFO):
        try:
            if wanted.copied_mounts is not None:
                host_copies.detach_below(str(wanted.copied_mounts))
            asyncio.run(run(wanted))
        except* (errors.AgentError, OSError) as group:
            # Expected failures get a message for people, not a traceback.
            logger.error("ended", extra={"reason": "; ".join(map(str, group.exceptions))})  # noqa: TRY400
            code = 1
    return code
