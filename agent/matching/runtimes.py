"""Which runtime handlers use the uimgacc snapshotter: the twins that node set-up makes.

Every handler of a node gets a twin with the same options and the uimgacc snapshotter:
`uimgacc` for the default one, `uimgacc-nvidia` for `nvidia`.
"""

from collections.abc import Mapping

from agent.model import keys, pods

DEFAULT_TWIN = "uimgacc"
WITHOUT = "without-uimgacc"
"""The handler that keeps the former default snapshotter where uimgacc becomes the default one:
for pods that must start before the uimgacc snapshotter, which is one of them."""

_PREFIX = "uimgacc-"


def twin_of(handler: str, *, default: str = "") -> str:
    """The twin of a handler; `default` is the node's default one, "" stands for it, too.

    A twin is its own twin.
    """
    if handler in ("", default):
        return DEFAULT_TWIN
    return handler if is_twin(handler) else f"{_PREFIX}{handler}"


def is_twin(handler: str) -> bool:
    """Whether a runtime handler is a twin: its containers use the uimgacc snapshotter."""
    return handler == DEFAULT_TWIN or (handler.startswith(_PREFIX) and handler != _PREFIX)


def handler_of(pod: pods.Pod, classes: Mapping[str, str] | None = None) -> str:
    """The runtime handler that a pod runs under; "" is the node's default one.

    `classes` is the RuntimeClass name -> handler, None where that is not known. Then the
    annotation decides, which uimgacc's admission policy sets because it knows the class;
    without it a class is taken to have its handler's name.
    """
    if classes is not None:
        return classes.get(pod.runtime_class, pod.runtime_class)
    return pod.annotations.get(keys.RUNTIME_HANDLER) or pod.runtime_class


def uses_snapshotter(pod: pods.Pod, classes: Mapping[str, str] | None = None) -> bool:
    """Whether this pod's kubelet sees the images that are registered for the snapshotter."""
    return is_twin(handler_of(pod, classes))
