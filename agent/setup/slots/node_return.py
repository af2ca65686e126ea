"""Whether a node is back after containerd was restarted: containerd, the agent, the kubelet."""

import asyncio

import aiohttp

from agent import errors
from agent.clients.containerd import rpc
from agent.clients.kube import rest_client

_SECONDS = 5.0


async def missing(
    api: rest_client.Objects, *, node: str, containerd: str, agent_address: str
) -> str:
    """What is not back yet, in a sentence; "" once all is. Raises what `api` raises.

    `containerd` is the path of its socket, `agent_address` the HOST:PORT of the agent's web server
    ("": no agent is expected).
    """
    try:
        async with rpc.Client(containerd, deadline=_SECONDS) as client:
            await client.version()
    except errors.AgentError as error:
        return f"containerd: {error}"
    if agent_address and (problem := await _agent(agent_address)):
        return problem
    return _kubelet(await api.get(rest_client.NODES, node))


async def _agent(address: str) -> str:
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"http://{address}/readyz", allow_redirects=False) as answer,
        ):
            text = (await answer.text()).strip()
    except (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError) as error:
        return f"the agent does not answer at {address}: {error}"
    return "" if answer.status == 200 else f"the agent is not ready: {text[:200]}"


def _kubelet(node: rest_client.Object) -> str:
    for condition in (node.get("status") or {}).get("conditions") or ():
        if condition.get("type") == "Ready":
            ready = condition.get("status") == "True"
            return "" if ready else f"the node is not Ready: {condition.get('message') or ''}"
    return "the node is not Ready"
