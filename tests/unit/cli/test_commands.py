"""The command line as a person or a script meets it."""

import datetime
import json
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable

import msgspec
import pytest
import typer.testing

from agent.cli import commands, output
from agent.cli.caches import create_command
from agent.model import caches, images, records
from agent.store import layout
from agent.store.lookup import direct_reader
from agent.store.publish import writer
from lab import places
from tests.unit.setup import machines
from tests.unit.store import making

DIGEST = "sha256:" + "ab" * 32
RESULT = typer.testing.CliRunner()

Invoke = Callable[..., "typer.testing.Result"]


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch) -> Invoke:
    for name in ("UIMGACC_STORE", "UIMGACC_ADDRESS", "UIMGACC_ROOT", "UIMGACC_MKFS"):
        monkeypatch.delenv(name, raising=False)
    return lambda *arguments, **options: RESULT.invoke(
        commands.app, [str(argument) for argument in arguments], **options
    )


@pytest.fixture
def store(tmp_path: pathlib.Path) -> pathlib.Path:
    """A store with one cache of one image, whose layers nobody looks at."""
    root = tmp_path / "store"
    writer.create(root)
    place = layout.Layout(root)
    layer = records.ImageLayer(
        diff_id=DIGEST,
        chain_id=DIGEST,
        digest=DIGEST,
        media_type="application/vnd.oci.image.layer.v1.tar+gzip",
        size=5 << 20,
        tar_size=9 << 20,
        erofs_size=7 << 20,
    )
    platform = records.PlatformImage(
        platform="linux/amd64",
        manifest=DIGEST,
        manifest_media_type="application/vnd.oci.image.manifest.v1+json",
        manifest_size=1,
        config=DIGEST,
        layers=[layer],
    )
    writer.publish_image(
        place,
        records.ImageRecord(
            ref="docker.io/library/nginx:1",
            target=DIGEST,
            target_media_type="application/vnd.oci.image.manifest.v1+json",
            target_size=1,
            platforms=[platform],
            created="2026-01-01T00:00:00Z",
        ),
    )
    held = records.CachedImage(
        ref="docker.io/library/nginx:1", target=DIGEST, size=5 << 20, layers=[DIGEST]
    )
    writer.publish_cache(
        place,
        records.CacheRecord(
            id="imc-abcde",
            name="web",
            images=[held],
            size=7 << 20,
            capacity=20 << 30,
            created="2026-01-01T00:00:00Z",
            namespaces=["team"],
        ),
    )
    return root


def test_get_lists_caches(invoke: Invoke, store: pathlib.Path) -> None:
    result = invoke("get", "--store", store)

    assert result.exit_code == 0
    assert result.stdout.splitlines()[0].split()[:4] == ["CACHEID", "NAME", "IMAGES", "SIZE"]
    assert result.stdout.splitlines()[1].split()[:5] == ["imc-abcde", "web", "1", "7.0", "MiB"]


@pytest.mark.parametrize("name", ["web", "imc-abcde"])
def test_get_finds_a_cache_by_name_and_by_id(
    name: str, invoke: Invoke, store: pathlib.Path
) -> None:
    result = invoke("get", name, "--store", store)

    assert result.exit_code == 0
    assert "docker.io/library/nginx:1" in result.stdout
    assert "linux/amd64" in result.stdout


def test_get_json_is_the_record(invoke: Invoke, store: pathlib.Path) -> None:
    found = json.loads(invoke("get", "--store", store, "--json").stdout)

    assert [cache["id"] for cache in found] == ["imc-abcde"]
    assert json.loads(invoke("get", "web", "--store", store, "--json").stdout) == found[0]


def test_the_store_may_come_from_the_environment(invoke: Invoke, store: pathlib.Path) -> None:
    assert invoke("get", env={"UIMGACC_STORE": str(store)}).exit_code == 0


@pytest.mark.parametrize("command", ["get", "delete"])
def test_an_unknown_cache_is_status_3(command: str, invoke: Invoke, store: pathlib.Path) -> None:
    for name in ("nobody", "imc-nobody"):
        result = invoke(command, name, "--store", store)

        assert result.exit_code == output.Status.NOT_FOUND
        assert result.stderr.count("\n") == 1
        assert name in result.stderr


def test_a_folder_that_is_no_store_is_one_line_and_status_1(
    invoke: Invoke, tmp_path: pathlib.Path
) -> None:
    result = invoke("get", "--store", tmp_path)

    assert result.exit_code == output.Status.FAILED
    assert result.stdout == ""
    assert result.stderr == f"uimgacc: {tmp_path} is not an image store: it has no store.json\n"


def test_wrong_use_is_status_2(invoke: Invoke, store: pathlib.Path) -> None:
    assert invoke("get").exit_code == output.Status.USAGE
    assert invoke("create", "--store", store).exit_code == output.Status.USAGE
    assert invoke("create", "a", "-i", "b", "-f", "c", "--store", store).exit_code == 2
    assert invoke("match", store / "nothing.yaml", "--store", store).exit_code == 2
    assert invoke("node-setup", "--config", "relative").exit_code == output.Status.USAGE


def test_delete_removes_the_cache_and_says_so(invoke: Invoke, store: pathlib.Path) -> None:
    result = invoke("delete", "web", "--store", store, "--json")

    assert json.loads(result.stdout) == {"id": "imc-abcde", "images": ["docker.io/library/nginx:1"]}
    assert json.loads(invoke("get", "--store", store, "--json").stdout) == []


def test_delete_does_not_name_images_that_another_cache_has(
    invoke: Invoke, store: pathlib.Path
) -> None:
    record = direct_reader.Reader(layout.Layout(store)).cache("imc-abcde")
    assert record is not None
    other = msgspec.structs.replace(record, id="imc-other", name="other")
    writer.publish_cache(layout.Layout(store), other)

    result = invoke("delete", "web", "--store", store, "--json")

    assert json.loads(result.stdout) == {"id": "imc-abcde", "images": []}


def test_match_explains_each_pod(
    invoke: Invoke, store: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    manifest = tmp_path / "pods.yaml"
    pod = (
        "kind: Pod\nmetadata:\n  name: {}\n  namespace: team\n"
        "  annotations: {{uimgacc.io/image-cache: imc-abcde}}\n"
        "spec:\n  containers: [{{name: a, image: 'nginx:1'}}]\n"
    )
    manifest.write_text("---\n".join(pod.format(name) for name in ("one", "two")))

    result = invoke("match", manifest, "--store", store, "--platform", "linux/amd64")
    found = json.loads(
        invoke("match", manifest, "--store", store, "--json", "--platform", "linux/amd64").stdout
    )

    assert result.exit_code == 0
    assert "team/one" in result.stdout
    assert "team/two" in result.stdout
    assert [decision["pod"]["name"] for decision in found] == ["one", "two"]
    assert found[0]["images"][0]["cacheId"] == "imc-abcde"


@pytest.mark.parametrize(
    ("namespace", "annotated", "mode"),
    [
        ("team", "", "automatic"),
        ("other", "", "none"),
        ("kube-system", "", "none"),
        ("team", "annotations: {uimgacc.io/image-cache: 'false'}", "none"),
    ],
)
def test_match_knows_the_label_of_a_namespace_in_the_file(
    invoke: Invoke,
    store: pathlib.Path,
    tmp_path: pathlib.Path,
    namespace: str,
    annotated: str,
    mode: str,
) -> None:
    manifest = tmp_path / "pods.yaml"
    label = "labels: {uimgacc.io/image-cache: auto}"
    namespaces = "".join(
        f"kind: Namespace\nmetadata:\n  name: {name}\n  {label}\n---\n"
        for name in ("team", "kube-system")
    )
    manifest.write_text(
        f"{namespaces}kind: Pod\nmetadata:\n  name: one\n  namespace: {namespace}\n  {annotated}\n"
        "spec:\n  containers: [{name: a, image: 'nginx:1'}]\n"
    )

    (found,) = json.loads(invoke("match", manifest, "--store", store, "--json").stdout)

    assert found["request"]["mode"] == mode


def test_match_of_a_file_without_pods_names_the_reason(
    invoke: Invoke, store: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    manifest = tmp_path / "service.yaml"
    manifest.write_text("kind: Service\nmetadata: {name: a}\n")

    result = invoke("match", manifest, "--store", store)

    assert result.exit_code == output.Status.USAGE
    assert "Service" in result.stderr


def test_store_init_check_and_prune(invoke: Invoke, tmp_path: pathlib.Path) -> None:
    root = tmp_path / "new"

    assert invoke("store", "init", "--store", root, "--compression", "none").exit_code == 0
    assert invoke("store", "init", "--store", root).exit_code == output.Status.FAILED
    assert json.loads(invoke("store", "check", "--store", root, "--json").stdout) == {
        "ok": True,
        "findings": [],
    }
    assert json.loads(invoke("store", "prune", "--store", root, "--json").stdout)["bytes"] == 0


def test_store_check_of_a_damaged_store_is_status_1(invoke: Invoke, store: pathlib.Path) -> None:
    result = invoke("store", "check", "--store", store)

    assert result.exit_code == output.Status.FAILED
    assert "missing" in result.stdout
    assert "Fix:" in result.stdout


def test_store_check_lists_and_repairs_layers_without_sources(
    invoke: Invoke, tmp_path: pathlib.Path
) -> None:
    place = making.store(tmp_path / "sources")
    making.image(place, "a")
    path = place.layer_record(making.digest("a"))
    old = json.loads(path.read_text()) | {"sources": None}
    path.write_text(json.dumps(old))

    listed = json.loads(invoke("store", "check", "--store", place.root, "--json").stdout)
    repaired = invoke("store", "check", "--store", place.root, "--repair", "--json")

    assert [(one["kind"], one["path"]) for one in listed["findings"]] == [("no sources", str(path))]
    assert listed["ok"]
    assert json.loads(repaired.stdout) == {
        "ok": True,
        "sources_written": 1,
        "index_changed": 0,
        "findings": [],
    }
    assert json.loads(path.read_text())["sources"] == [making.SOURCE]


def test_store_check_repairs_the_index_of_caches(invoke: Invoke, tmp_path: pathlib.Path) -> None:
    place = making.store(tmp_path / "indexed")
    making.cache(place, "imc-one", making.image(place, "a"))
    index = place.index_mark.parent
    shutil.rmtree(place.index)

    broken = invoke("store", "check", "--store", place.root, "--quick", "--json")
    repaired = invoke("store", "check", "--store", place.root, "--quick", "--repair", "--json")
    place.index_mark.unlink()
    unused = invoke("store", "check", "--store", place.root, "--quick", "--json")

    (finding,) = json.loads(broken.stdout)["findings"]
    assert (finding["kind"], pathlib.Path(finding["path"]).parent) == (
        "missing",
        place.cache_records,
    )
    assert broken.exit_code == 1
    assert json.loads(repaired.stdout)["index_changed"] > 0
    assert repaired.exit_code == 0
    assert index.is_dir()
    assert [one["kind"] for one in json.loads(unused.stdout)["findings"]] == ["no index"]
    assert unused.exit_code == 0


def test_node_setup_and_undo(
    invoke: Invoke, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines.without_program(monkeypatch)
    main = tmp_path / "etc" / "containerd" / "config.toml"
    main.parent.mkdir(parents=True)
    main.write_text("version = 3\n")
    options = ("--host-root", tmp_path, "--containerd-version", "2.1")

    shown = invoke("node-setup", "--dry-run", *options)
    done = json.loads(invoke("node-setup", "--json", *options).stdout)
    again = invoke("node-setup", *options)
    undone = json.loads(invoke("node-setup", "--undo", "--json", *options).stdout)

    assert "+[proxy_plugins.uimgacc]" in shown.stdout
    assert done["handlers"] == {"uimgacc": "runc", "uimgacc-runc": "runc"}
    assert "nothing changed" in again.stdout
    assert undone["changed"]
    assert main.read_text() == "version = 3\n"


def test_a_configuration_that_no_containerd_can_check_is_not_written(
    invoke: Invoke, tmp_path: pathlib.Path
) -> None:
    main = tmp_path / "etc" / "containerd" / "config.toml"
    main.parent.mkdir(parents=True)
    main.write_text("version = 3\n")

    result = invoke("node-setup", "--host-root", tmp_path, "--containerd-version", "2.1")

    assert result.exit_code == output.Status.USAGE
    assert "--containerd-binary" in result.stderr
    assert main.read_text() == "version = 3\n"


def test_restart_happens_only_on_change(
    invoke: Invoke, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines.without_program(monkeypatch)
    main = tmp_path / "etc" / "containerd" / "config.toml"
    main.parent.mkdir(parents=True)
    main.write_text("version = 3\n")
    mark = tmp_path / "restarted"
    command = f"sh -c 'echo once >> {mark}'"
    options = ("--host-root", tmp_path, "--containerd-version", "2.1", "--restart-command", command)

    for _ in range(2):
        assert invoke("node-setup", *options).exit_code == 0

    assert mark.read_text() == "once\n"


def test_a_restart_that_fails_is_reported(
    invoke: Invoke, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines.without_program(monkeypatch)
    options = ("--host-root", tmp_path, "--containerd-version", "2.1", "--restart-command", "false")

    result = invoke("node-setup", *options)

    assert result.exit_code == output.Status.FAILED
    assert "`false` failed" in result.stderr


def test_version(invoke: Invoke) -> None:
    assert json.loads(invoke("version", "--json").stdout)["version"]


def test_a_manifest_and_the_command_line_make_one_request(tmp_path: pathlib.Path) -> None:
    manifest = tmp_path / "cache.yaml"
    manifest.write_text(
        "apiVersion: eci.alibabacloud.com/v1\nkind: ImageCache\n"
        "metadata: {name: big, annotations: {k8s.aliyun.com/plain-http-registry: 'a:1'}}\n"
        "spec: {images: ['a:1/x:1'], imageCacheSize: 40, imagePullSecrets: ['ns:s']}\n"
    )
    wanted = create_command.Wanted(file=str(manifest), size_gib=50, plain_http=frozenset({"b:2"}))

    (request,) = create_command.requests_of(wanted)

    assert request.name == "big"
    assert request.dialect is caches.Dialect.ALIBABA
    assert request.size_gib == 50
    assert set(request.plain_http_registries) == {"a:1", "b:2"}
    assert "--secret" in request.remarks[-1]


def test_a_request_from_flags_is_normalised() -> None:
    (request,) = create_command.requests_of(create_command.Wanted(name="a", images=("nginx",)))

    assert request.images == (images.parse_reference("docker.io/library/nginx:latest"),)
    assert request.size_gib == caches.SIZE_DEFAULT


@pytest.mark.parametrize(
    ("seconds", "expected"), [(5, "5s"), (130, "2m"), (3700, "1h"), (86400 * 3, "3d")]
)
def test_ages_are_short(seconds: int, expected: str) -> None:
    now = datetime.datetime.now(datetime.UTC)
    then = now - datetime.timedelta(seconds=seconds)

    assert output.age(then.isoformat(), now) == expected


def test_the_daemons_and_help_load_little() -> None:
    """`--help` answers at once: nothing heavy is imported for it."""
    code = (
        "import sys\nfrom agent.cli import commands\n"
        "heavy = {'grpc', 'aiohttp', 'yaml', 'tomlkit', 'msgspec', 'rich.console'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=places.CHECKOUT,
    )

    assert done.stdout.strip() == "[]"
