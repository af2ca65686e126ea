"""Which runtime handlers use our snapshotter: the twins that node set-up makes.

Every handler of a node gets a twin with the same options and our snapshotter:
`uimgacc` for the default one, `uimgacc-nvidia` for `nvidia`.
"""

from collections.abc import Mapping

from agent.model import keys, pods

DEFAULT_TWIN = "uimgacc"
WITHOUT = "without-uimgacc"
"""The handler that keeps the former default snapshotter where ours becomes the default one: for
what must start before our snapshotter does, itself first of all."""

_PREFIX = "uimgacc-"


def twin_of(handler: str, *, default: str = "") -> str:
    """The twin of a handler; `default` is the node's default one, "" stands for it, too.

    A twin is its own twin.
    """
    if handler in ("", default):
        return DEFAULT_TWIN
    return handler if is_ours(handler) else f"{_PREFIX}{handler}"


def is_ours(handler: str) -> bool:
    """Whether a runtime handler uses our snapshotter."""
    return handler == DEFAULT_TWIN or (handler.startswith(_PREFIX) and handler != _PREFIX)


def handler_of(pod: pods.Pod, classes: Mapping[str, str] | None = None) -> str:
    """The runtime handler that a pod runs under; "" is the node's default one.

    `classes` is the RuntimeClass name -> handler, None where that is not known. Then
    the annotation tells that our admission policy has set, which knows the class; else
    a class is taken to be called as its handler.
    """
    if classes is not None:
        return classes.get(pod.runtime_class, pod.runtime_class)
    return pod.annotations.get(keys.RUNTIME_HANDLER) or pod.runtime_class


def uses_our_snapshotter(pod: pods.Pod, classes: Mapping[str, str] | None = None) -> bool:
    """Whether what is registered for our snapshotter is seen by this pod's kubelet pull."""
    return is_ours(handler_of(pod, classes))
