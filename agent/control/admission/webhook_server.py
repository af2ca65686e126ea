"""The admission webhook over HTTP: two paths, one for namespaces with the label and one for others.

A pod that reaches the port may send anything, so what a request can take is bounded: its bytes, its
time, and how many are worked on at once. What exceeds a bound is refused, and the API server then
creates the pod as it is (`failurePolicy: Ignore`). An answer depends on nothing but the request and
the RuntimeClasses, which every user of the cluster may read.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from aiohttp import web

from agent.control.admission import admission_review
from agent.matching import annotations, pod_moves
from agent.metrics import admission_metrics
from agent.model import manifests

logger = logging.getLogger(__name__)

PODS = "/pods"
LABELLED_PODS = "/labelled-pods"
"""Of pods in namespaces that have the label: the webhook's namespaceSelector says so."""

LIMIT = 2 * 1024**2
"""Bytes of a request. The API server stores no pod of more than 1.5 MiB."""

_SECONDS = 2.0
_AT_ONCE = 64


class Webhook:
    """Answers by the twins that `twins` returns; pods in the namespaces `left_out` stay."""

    def __init__(
        self,
        twins: Callable[[], Sequence[pod_moves.Twin]],
        *,
        left_out: frozenset[str] = pod_moves.LEFT_OUT,
    ) -> None:
        self._twins = twins
        self._left_out = left_out
        self._under_way = 0

    def application(self) -> web.Application:
        """The routes."""
        app = web.Application(client_max_size=LIMIT)
        app.router.add_post(PODS, self._pods)
        app.router.add_post(LABELLED_PODS, self._labelled_pods)
        return app

    async def _pods(self, request: web.Request) -> web.Response:
        return await self._serve(request, "")

    async def _labelled_pods(self, request: web.Request) -> web.Response:
        return await self._serve(request, annotations.NAMESPACE_VALUE)

    async def _serve(self, request: web.Request, namespace_label: str) -> web.Response:
        if self._under_way >= _AT_ONCE:
            admission_metrics.admitted("refused")
            return web.Response(status=503, text="too many requests at once\n")
        self._under_way += 1
        try:
            async with asyncio.timeout(_SECONDS):
                body = await request.read()
            return self._answered(body, namespace_label)
        except admission_review.ReviewInvalid as error:
            admission_metrics.admitted("refused")
            return web.Response(status=400, text=f"{error}\n")
        except web.HTTPRequestEntityTooLarge:
            admission_metrics.admitted("refused")
            raise
        except TimeoutError:
            admission_metrics.admitted("refused")
            return web.Response(status=408, text="the request did not arrive in time\n")
        finally:
            self._under_way -= 1

    def _answered(self, body: bytes, namespace_label: str) -> web.Response:
        review = admission_review.read(body)
        move = self._move(review, namespace_label)
        if move.runtime_class:
            admission_metrics.admitted("moved")
        else:
            admission_metrics.admitted("annotated" if move.annotations else "left")
        answer = admission_review.answer(review, move)
        return web.Response(body=answer, content_type="application/json")

    def _move(self, review: admission_review.Request, namespace_label: str) -> pod_moves.Move:
        if review.namespace in self._left_out:
            return pod_moves.Move(annotations={})
        try:
            return pod_moves.move_of(review.object, self._twins(), namespace_label=namespace_label)
        except manifests.ManifestError as error:
            # The API server's own checks come after admission: it refuses such a pod itself.
            logger.debug("a pod cannot be read", extra={"reason": str(error)})
            return pod_moves.Move(annotations={})
