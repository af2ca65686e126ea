"""Which pull secrets the pods of an image use, by namespace: asked of the API server."""

from collections.abc import Mapping, Sequence

from agent import errors
from agent.clients.kube import refusals, rest_client
from agent.control.pulls import advice
from agent.matching import pod_moves
from agent.model import images, manifests, pods

_PAGES = 10


class PodSecrets:
    """Asks for the pods that were seen to pull; where they are gone, for others of the image."""

    def __init__(self, client: rest_client.Client) -> None:
        self._client = client
        self._listed: dict[str, Sequence[pods.Pod]] = {}
        self.problem = ""

    async def users(
        self, chosen: Sequence[advice.Assessed]
    ) -> dict[str, Mapping[str, advice.Secrets | None]]:
        """For each image the secrets of its pods by namespace; see advice.Users."""
        return {
            each.cost.image: {
                namespace: await self._secrets(each.cost.image, namespace, pod)
                for namespace, pod in each.cost.pods.items()
                if namespace not in pod_moves.LEFT_OUT
            }
            for each in chosen
        }

    async def _secrets(self, image: str, namespace: str, name: str) -> advice.Secrets | None:
        """Of the pod, or of all pods of the namespace that have the image; None without any."""
        try:
            pod = await self._pod(namespace, name)
            candidates = [pod] if pod is not None and _has(pod, image) else []
            candidates = candidates or [
                each for each in await self._pods(namespace) if _has(each, image)
            ]
        except errors.AgentError as error:
            self.problem = str(error)
            return None
        if not candidates:
            return None
        return min((frozenset(each.pull_secrets) for each in candidates), key=len)

    async def _pod(self, namespace: str, name: str) -> pods.Pod | None:
        try:
            body = await self._client.get(rest_client.PODS, name, namespace=namespace)
        except refusals.NotFound:
            return None
        return _parsed(body)

    async def _pods(self, namespace: str) -> Sequence[pods.Pod]:
        if namespace not in self._listed:
            listed: list[pods.Pod] = []
            number = 0
            async for page in self._client.pages(rest_client.PODS, namespace=namespace):
                listed += [pod for body in page.items if (pod := _parsed(body)) is not None]
                number += 1
                if number == _PAGES:
                    break
            self._listed[namespace] = listed
        return self._listed[namespace]


def _parsed(body: rest_client.Object) -> pods.Pod | None:
    try:
        return pods.parse_pod(dict(body) | {"kind": "Pod"})
    except manifests.ManifestError:
        return None


def _has(pod: pods.Pod, image: str) -> bool:
    for name in pod.images:
        try:
            if str(images.parse_reference(name)) == image:
                return True
        except images.ImageReferenceError:
            continue
    return False
