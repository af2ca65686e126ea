"""The controller's front as a whole: it listens with the certificate that is there now."""

import asyncio
import json
import logging
import pathlib

import pytest

from agent.clients.kube import connection
from agent.roles.endpoints import controller_api, served_certificate
from agent.settings import controller_settings
from tests.unit.kits.web import test_tls

made = test_tls.made


async def test_a_certificate_that_is_renewed_is_used_without_a_restart(
    made: pathlib.Path, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, monkeypatch
) -> None:
    monkeypatch.setattr(served_certificate, "_SECONDS", 0.05)
    caplog.set_level(logging.INFO)
    test_tls.put(tmp_path, made / "one.crt", made / "one.key")
    (tmp_path / "keys").write_text(json.dumps({"public": "a-long-private-key"}))
    wanted = controller_settings.Controller(
        store=tmp_path / "store",
        api_listen="127.0.0.1:0",
        api_keys=tmp_path / "keys",
        api_tls=tmp_path,
    )
    access = connection.Kubeconfig(tmp_path / "no-kubeconfig")
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        serving = group.create_task(controller_api.run(wanted, access))
        while not (lines := [each for each in caplog.records if hasattr(each, "address")]):
            await asyncio.sleep(0.01)
        port = int(lines[0].address.rpartition(":")[2])
        assert await test_tls.shown(port) == test_tls.der(made / "one.crt")

        test_tls.put(tmp_path, made / "two.crt", made / "two.key")
        while await test_tls.shown(port) != test_tls.der(made / "two.crt"):
            await asyncio.sleep(0.01)
        serving.cancel()


async def test_an_address_without_a_host_is_that_of_all_interfaces(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A Deployment's Service reaches the pod's address, not its loopback."""
    caplog.set_level(logging.INFO)
    (tmp_path / "keys").write_text(json.dumps({"public": "a-long-private-key"}))
    wanted = controller_settings.Controller(
        store=tmp_path / "store", api_listen=":0", api_keys=tmp_path / "keys"
    )
    access = connection.Kubeconfig(tmp_path / "no-kubeconfig")
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        serving = group.create_task(controller_api.run(wanted, access))
        while not (lines := [each for each in caplog.records if hasattr(each, "address")]):
            await asyncio.sleep(0.01)
        serving.cancel()

    assert lines[0].address.rpartition(":")[0] in ("0.0.0.0", "[::]")
