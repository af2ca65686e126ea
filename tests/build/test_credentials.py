"""Who we are at a registry: a real one that asks, and builds that must not tell anybody."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from lab import services
from lab.web import registries

pytestmark = pytest.mark.skipif(
    not registries.catalogue() or shutil.which("docker-registry") is None,
    reason="needs the lab's images: run the lab's setup",
)

PASSWORD = "open-sesame-4711"
PLUGIN = f"""#!{sys.executable}
import json, sys
asked = json.load(sys.stdin)
registry = asked["image"].partition("/")[0]
json.dump({{
    "kind": "CredentialProviderResponse",
    "apiVersion": asked["apiVersion"],
    "cacheKeyType": "Registry",
    "auth": {{registry: {{"username": "alice", "password": sys.argv[1][::-1]}}}},
}}, sys.stdout)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("registry")
    with services.Registry(folder, users={"alice": PASSWORD}) as running:
        yield running


def create(server, folder: pathlib.Path, *options: str) -> subprocess.CompletedProcess[str]:
    """`uimgacc create` as a person runs it, with the log of everything."""
    command = [sys.executable, "-c", "from agent.cli import entry; entry.main()"]
    image = f"{server.address}/lab/gzip:1"
    command += ["create", "tools", "--image", image, "--plain-http", server.address]
    command += ["--store", str(folder / "store"), *options]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=100, env=os.environ | {"NO_COLOR": "1"}
    )


def plugin_options(folder: pathlib.Path, server, password: str) -> list[str]:
    """The kubelet's two options, for a plug-in that answers with this password."""
    (folder / "bin").mkdir()
    program = folder / "bin" / "plugin"
    program.write_text(PLUGIN)
    program.chmod(0o755)
    provider = {
        "name": "plugin",
        "matchImages": [server.address],
        "defaultCacheDuration": "1h",
        "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
        # Reversed: the test looks for the password in whatever is written and shown.
        "args": [password[::-1]],
    }
    config = {
        "kind": "CredentialProviderConfig",
        "apiVersion": "kubelet.config.k8s.io/v1",
        "providers": [provider],
    }
    (folder / "config.json").write_text(json.dumps(config))
    return [
        f"--image-credential-provider-config={folder / 'config.json'}",
        f"--image-credential-provider-bin-dir={folder / 'bin'}",
    ]


def test_a_plugin_of_the_kubelet_opens_a_registry(tmp_path, server) -> None:
    options = plugin_options(tmp_path, server, PASSWORD)

    done = create(server, tmp_path, *options)

    assert done.returncode == 0, done.stderr
    assert PASSWORD not in done.stdout + done.stderr
    files = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert len(files) > 5
    assert not any(PASSWORD.encode() in path.read_bytes() for path in files)


def test_a_wrong_password_is_refused_with_the_name_of_its_source(tmp_path, server) -> None:
    options = plugin_options(tmp_path, server, wrong := "wrong-0815")

    done = create(server, tmp_path, *options)

    assert done.returncode == 1
    assert "credential plug-in plugin" in done.stderr
    assert "Traceback" not in done.stderr
    assert wrong not in done.stderr


def test_a_config_that_is_none_is_said_before_anything_is_asked(tmp_path, server) -> None:
    (tmp_path / "config").write_text("kind: Pod")
    mark = server.mark()

    done = create(server, tmp_path, f"--image-credential-provider-config={tmp_path / 'config'}")

    assert done.returncode == 1
    assert "CredentialProviderConfig" in done.stderr
    assert server.requests(mark) == []
