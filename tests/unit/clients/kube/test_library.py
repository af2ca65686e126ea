"""What of kubernetes_asyncio a process imports; each test has one of its own."""

import subprocess
import sys

import pytest


def run(code: str) -> str:
    """The output of a Python process."""
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_the_client_imports_none_of_the_classes_for_the_types_of_the_api() -> None:
    code = """
import sys
from agent.clients.kube import rest_client
print([name for name in sys.modules if name.startswith("kubernetes_asyncio.client.models.")])
"""
    assert run(code) == "[]"


@pytest.mark.parametrize(
    "first", ["from agent.clients.kube import library", "import kubernetes_asyncio"]
)
@pytest.mark.parametrize(
    ("then", "value"),
    [
        ("from kubernetes_asyncio.client import V1Pod as it", "V1Pod"),
        ("from kubernetes_asyncio.client.models import V1Pod as it", "V1Pod"),
        ("from kubernetes_asyncio.client.models.v1_pod import V1Pod as it", "V1Pod"),
        ("from kubernetes_asyncio import watch; it = watch.Watch", "Watch"),
        ("from kubernetes_asyncio import config; it = config.ConfigException", "ConfigException"),
    ],
)
def test_who_asks_for_the_rest_of_the_library_gets_it(first: str, then: str, value: str) -> None:
    """And the classes that were there before are the same ones."""
    code = f"""
{first}
{then}
print(it.__name__)
from agent.clients.kube import library
from kubernetes_asyncio import client
print(client.ApiClient is library.ApiClient, client.Configuration is library.Configuration)
"""
    assert run(code).split() == [value, "True", "True"]
