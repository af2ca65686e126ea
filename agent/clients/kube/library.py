"""kubernetes_asyncio without its classes for the types and calls of the API.

`import kubernetes_asyncio` imports a module for each of them, many hundreds, which costs a second
and tens of megabytes in each process. All requests here are JSON, and use none of these classes.
So the packages whose own code only imports them are registered without running it. The modules
in such a package are imported as usual; where another name is asked of it, its code runs then.

The other modules take what they use of the library from here, and never import it themselves.
"""

import importlib.util
import sys
import types
from typing import Any


class _Deferred(types.ModuleType):
    """A package whose own code has not run yet."""

    def __getattr__(self, name: str) -> Any:
        """Import the module of this name in it; if there is none, run the package's code."""
        module = f"{self.__name__}.{name}"
        if importlib.util.find_spec(module) is not None:
            return importlib.import_module(module)
        self.__class__ = types.ModuleType  # type: ignore[assignment]
        if self.__spec__ is not None and self.__spec__.loader is not None:
            self.__spec__.loader.exec_module(self)
        return getattr(self, name)


def _defer(name: str) -> None:
    """Register a package without running its code, if it was not imported before."""
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    if spec is None:
        return
    package = importlib.util.module_from_spec(spec)
    package.__class__ = _Deferred
    sys.modules[name] = package
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, package)


for _name in (
    "kubernetes_asyncio",
    "kubernetes_asyncio.client",
    "kubernetes_asyncio.client.models",
):
    _defer(_name)

from kubernetes_asyncio.client.api_client import ApiClient  # noqa: E402
from kubernetes_asyncio.client.configuration import Configuration  # noqa: E402

# The modules below ask the package for these two.
vars(sys.modules["kubernetes_asyncio.client"]).update(
    ApiClient=ApiClient, Configuration=Configuration
)

from kubernetes_asyncio.config.config_exception import ConfigException  # noqa: E402
from kubernetes_asyncio.config.incluster_config import InClusterConfigLoader  # noqa: E402
from kubernetes_asyncio.config.kube_config import KubeConfigLoader  # noqa: E402

__all__ = [
    "ApiClient",
    "ConfigException",
    "Configuration",
    "InClusterConfigLoader",
    "KubeConfigLoader",
]
