"""The control plane's manifests: what they agree on with the command, and with the builders."""

import json
import pathlib
import re

import pytest
import yaml

from agent.control.caches import cache_object
from agent.control.jobs import job_manifest, job_patch, job_template
from agent.control.pulls import pull_book
from agent.control.signing import key_objects
from agent.kits import networks
from agent.roles import builder, controller_flags
from tests.manifests import admission, jobs, rendering, schemas


def documents() -> list[rendering.Document]:
    return list(rendering.together("runtimeclass", "controller", "alibaba", "tencent"))


def deployment() -> rendering.Document:
    return rendering.only(documents(), "Deployment", "uimgacc-controller")


def test_the_command_reads_what_the_deployment_says() -> None:
    (container,) = deployment()["spec"]["template"]["spec"]["containers"]
    environment = rendering.settings(documents(), container)
    arguments = [rendering.expanded(text, environment) for text in container["args"]]

    found = controller_flags.parse(arguments[1:])

    assert arguments[0] == "controller"
    assert found.pod == "<metadata.name>"
    assert str(found.store) in [mount["mountPath"] for mount in container["volumeMounts"]]
    assert str(found.builder_patch.parent) in [
        mount["mountPath"] for mount in container["volumeMounts"]
    ]
    (port,) = container["ports"]
    assert found.listen.endswith(f":{port['containerPort']}")


def test_the_controller_s_user_can_read_its_files() -> None:
    """The kubelet makes the files of Secrets and projections root's, and `fsGroup`'s group."""
    documents = list(rendering.together("runtimeclass", "controller", "api"))
    spec = rendering.only(documents, "Deployment", "uimgacc-controller")["spec"]["template"]["spec"]
    security = spec["securityContext"]
    modes = {
        volume["name"]: volume[kind].get("defaultMode", 0o644)
        for volume in spec["volumes"]
        for kind in ("secret", "projected", "configMap")
        if kind in volume
    }

    assert modes.keys() == {"builder", "api", "token"}
    assert all(mode & 0o040 for mode in modes.values())
    assert security["fsGroup"] == security["runAsGroup"]


def test_another_file_system_is_a_claim_of_controller_and_builders() -> None:
    documents = list(rendering.together("runtimeclass", "controller", "api", "claim"))
    pod = rendering.only(documents, "Deployment", "uimgacc-controller")["spec"]["template"]
    (agent,) = [
        container
        for container in rendering.only(documents, "DaemonSet", "uimgacc-node")["spec"]["template"][
            "spec"
        ]["containers"]
        if container["name"] == "agent"
    ]

    settings = controller_flags.parse(["--store=/var/lib/uimgacc/store", "--pod=p"])
    template = job_template.of_pod({"metadata": {"name": "p"}, **pod}, settings, patch={})

    assert template.volume == {
        "name": "store",
        "persistentVolumeClaim": {"claimName": "uimgacc-store"},
    }
    assert rendering.settings(documents, agent)["UIMGACC_NFS"] == ""


@pytest.mark.parametrize("release", ["1.34", "1.37"])
def test_a_builder_s_job_is_one_that_the_api_knows(release: str, tmp_path: pathlib.Path) -> None:
    """With all that an object can ask for, from the Deployment's own pod, and read back."""
    pod = {"metadata": {"name": "p"}, **deployment()["spec"]["template"]}
    settings = controller_flags.parse(
        ["--store=/var/lib/uimgacc/store", "--pod=p", "--plain-http=a:5000, c:5000"]
    )
    patch = {"spec": {"template": {"spec": {"tolerations": [{"operator": "Exists"}]}}}}
    template = job_template.of_pod(pod, settings, patch=patch)
    manifest = {
        "apiVersion": "eci.alibabacloud.com/v1",
        "kind": "ImageCache",
        "metadata": {
            "name": "c",
            "uid": "u",
            "resourceVersion": "1",
            "annotations": {
                "k8s.aliyun.com/plain-http-registry": "a:5000",
                "k8s.aliyun.com/insecure-registry": "b:5000",
                "k8s.aliyun.com/acr-instance-ids": "cn-beijing:cri-1",
            },
        },
        "spec": {
            "images": ["nginx:1", "a:5000/b:2"],
            "imagePullSecrets": ["ns:pull"],
            "imageCacheSize": 30,
            "retentionDays": 7,
        },
    }
    cache = cache_object.parse(manifest)

    job = job_manifest.manifest(
        cache, cache.request, ("linux/amd64", "linux/arm64"), template=template
    )

    schemas.validate(job, release)
    spec = job["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert [text for text in container["args"] if text.startswith("--plain-http=")] == [
        "--plain-http=a:5000",
        "--plain-http=c:5000",
    ]
    # An object's author cannot have builds connect to where the operator forbids it.
    assert [text for text in container["args"] if text.startswith("--registry-")] == [
        f"--registry-deny={networks.OWN_HOST}",
        "--registry-allow=a:5000",
        "--registry-allow=c:5000",
    ]
    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert spec["volumes"][0] == {
        "name": "store",
        "nfs": {"server": "nfs.example.internal", "path": "/uimgacc"},
    }
    assert spec["securityContext"]["runAsUser"] == 65532
    assert spec["automountServiceAccountToken"] is False
    rendering.only(documents(), "ServiceAccount", spec["serviceAccountName"])
    read = builder.parse(container["args"][1:])
    assert read.job == job["metadata"]["name"]
    assert read.request.references == cache.request.images
    assert [str(each) for each in read.request.platforms] == ["linux/amd64", "linux/arm64"]
    assert read.request.every_platform is False
    assert read.request.capacity == 30 << 30
    assert read.request.namespaces == ("ns",)
    assert read.request.retention_days == 7
    assert read.settings.registries.plain_http == {"a:5000", "c:5000"}
    assert read.settings.registries.insecure == {"b:5000"}
    assert read.settings.acr_instances == ("cn-beijing:cri-1",)
    secret = job_manifest.secret_manifest("j", "u", namespace="n", data=["e30="])
    schemas.validate(secret, release)
    assert job["spec"]["suspend"] is True


def test_builders_get_the_policy_of_signatures() -> None:
    job = jobs.made(deployment(), "--signatures=uimgacc-signatures")

    schemas.validate(job, "1.37")
    spec = job["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    read = builder.parse(container["args"][1:]).settings.signature_policy
    (mount,) = [each for each in container["volumeMounts"] if each["name"] == "signatures"]
    (volume,) = [each for each in spec["volumes"] if each["name"] == "signatures"]
    assert read == pathlib.Path(mount["mountPath"]) / "policy.yaml"
    # Not optional: without the ConfigMap nothing is built.
    assert volume == {"name": "signatures", "configMap": {"name": "uimgacc-signatures"}}
    policy = admission.Validator(documents(), "uimgacc-controller-jobs")
    account = "system:serviceaccount:uimgacc-system:uimgacc-controller"
    asked = {"userInfo": {"username": account}, "operation": "CREATE"}
    assert policy.refusals(asked, old=None, new=json.loads(json.dumps(job))) == []


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        (key_objects.CONFIG_MAP, True),
        (pull_book.CONFIG_MAP, True),
        ("uimgacc-ucloud", True),
        ("uimgacc", False),
    ],
)
def test_the_controller_writes_the_config_maps_of_its_own_only(name: str, allowed: bool) -> None:
    """RBAC cannot name what is created; the agents' settings are in one of that namespace."""
    policy = admission.Validator(documents(), "uimgacc-controller-configmaps")
    account = "system:serviceaccount:uimgacc-system:uimgacc-controller"
    asked = {"userInfo": {"username": account}, "operation": "CREATE"}
    refused = policy.refusals(asked, old=None, new={"metadata": {"name": name}})

    assert (refused == []) is allowed


def test_the_controller_may_read_and_change_its_key() -> None:
    role = rendering.only(documents(), "Role", "uimgacc-controller")
    rules = {
        (kind, name): rule["verbs"]
        for rule in role["rules"]
        for kind in rule["resources"]
        for name in rule.get("resourceNames", ())
    }

    assert rules["secrets", key_objects.SECRET] == ["get", "patch"]
    assert rules["configmaps", key_objects.CONFIG_MAP] == ["get", "patch"]
    assert rules["configmaps", pull_book.CONFIG_MAP] == ["get", "patch"]


def test_nodes_have_the_keys_as_soon_as_there_are_some() -> None:
    daemon = rendering.only(documents(), "DaemonSet", "uimgacc-node")
    pod = daemon["spec"]["template"]["spec"]
    (volume,) = [each for each in pod["volumes"] if each["name"] == "keys"]

    assert volume["configMap"] == {"name": key_objects.CONFIG_MAP, "optional": True}
    for container in pod["containers"]:
        (mount,) = [each for each in container["volumeMounts"] if each["name"] == "keys"]
        settings = rendering.settings(documents(), container)
        assert settings["UIMGACC_TRUSTED_KEYS"] == mount["mountPath"]


@pytest.mark.parametrize(
    "patch",
    [
        {"volumes": [{"name": "signatures", "emptyDir": {}}]},
        {"volumes": [{"name": "signatures", "$patch": "delete"}]},
        {
            "containers": [
                {
                    "name": "build",
                    "volumeMounts": [{"mountPath": "/etc/uimgacc/signatures", "name": "scratch"}],
                }
            ]
        },
    ],
)
def test_the_policy_of_signatures_cannot_be_patched_away(patch: dict[str, object]) -> None:
    pod = {"metadata": {"name": "p"}, **deployment()["spec"]["template"]}
    settings = controller_flags.parse(
        ["--store=/var/lib/uimgacc/store", "--pod=p", "--signatures=uimgacc-signatures"]
    )

    with pytest.raises(job_patch.PatchRefused):
        job_template.of_pod(pod, settings, patch={"spec": {"template": {"spec": patch}}})


def examples() -> list[str]:
    """The parts of a Job that our documents show."""
    texts = [
        (rendering.MANIFESTS.parent / "docs" / name).read_text()
        for name in ("use/builders.md", "use/credentials.md")
    ]
    return re.findall(
        r"^```yaml\n# job\.yaml[^\n]*\n(.*?)^```", "".join(texts), re.DOTALL | re.MULTILINE
    )


@pytest.mark.parametrize("text", examples())
def test_what_the_documents_add_to_a_job_is_one_that_the_api_knows(text: str) -> None:
    (own,) = deployment()["spec"]["template"]["spec"]["containers"]

    job = jobs.made(deployment(), patch=yaml.safe_load(text))

    schemas.validate(job, "1.37")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert (container["args"][0], container["image"]) == ("build", own["image"])
    names = [volume["name"] for volume in job["spec"]["template"]["spec"]["volumes"]]
    assert names[:2] == ["store", "scratch"]
    assert {mount["name"] for mount in container["volumeMounts"]} == set(names)
    policy = admission.Validator(documents(), "uimgacc-controller-jobs")
    account = "system:serviceaccount:uimgacc-system:uimgacc-controller"
    asked = {"userInfo": {"username": account}, "operation": "CREATE"}
    assert policy.refusals(asked, old=None, new=json.loads(json.dumps(job))) == []


def test_there_are_examples() -> None:
    assert len(examples()) == 5


def test_the_store_s_address_is_that_of_the_settings(tmp_path: pathlib.Path) -> None:
    path = rendering.write(tmp_path, "runtimeclass", "controller")
    own = yaml.safe_load(path.read_text())
    setting = {"name": "uimgacc", "namespace": "uimgacc-system", "behavior": "merge"}
    own["configMapGenerator"] = [{**setting, "literals": ["UIMGACC_NFS=10.0.0.9:/images"]}]
    path.write_text(yaml.safe_dump(own))

    found = rendering.render(tmp_path)

    assert "nfs.example.internal" not in yaml.safe_dump_all(found)
    (volume, *_) = rendering.only(found, "Deployment", "uimgacc-controller")["spec"]["template"][
        "spec"
    ]["volumes"]
    assert volume["nfs"] == {"server": "10.0.0.9", "path": "/images"}


def test_the_controller_reads_the_settings_of_the_config_map(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = rendering.write(tmp_path, "runtimeclass", "controller", "api")
    own = yaml.safe_load(path.read_text())
    setting = {"name": "uimgacc", "namespace": "uimgacc-system", "behavior": "merge"}
    literals = ["UIMGACC_PLAIN_HTTP=r.example:5000", "UIMGACC_PARALLEL_BUILDS=9"]
    own["configMapGenerator"] = [{**setting, "literals": literals}]
    path.write_text(yaml.safe_dump(own))
    rendered = rendering.render(tmp_path)
    deployment = rendering.only(rendered, "Deployment", "uimgacc-controller")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    for name, value in rendering.settings(rendered, container).items():
        monkeypatch.setenv(name, value)

    wanted = controller_flags.parse(container["args"][1:])

    assert wanted.plain_http_registries == ("r.example:5000",)
    assert wanted.parallel_builds == 9
    # Settings of the agents in the same ConfigMap do not move what the Deployment fixes.
    assert wanted.listen == "0.0.0.0:9467"
    assert wanted.api_listen == "0.0.0.0:9468"
    assert wanted.nfs == "nfs.example.internal:/uimgacc"


def test_a_controller_without_the_store_in_its_pod_says_so() -> None:
    settings = controller_flags.parse(["--store=/elsewhere", "--pod=p"])

    with pytest.raises(job_template.NoTemplate, match="no volume at /elsewhere"):
        job_template.of_pod(dict(deployment()["spec"]["template"]), settings, patch={})


@pytest.mark.parametrize("text", ["- a\n", "{", "a: [\n"])
def test_a_patch_that_is_none_says_so(tmp_path: pathlib.Path, text: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)

    with pytest.raises(job_template.NoTemplate, match=r"job\.yaml"):
        job_template.read_patch(path)


def test_the_default_patch_changes_nothing() -> None:
    folder = rendering.MANIFESTS / "components/controller"

    assert job_template.read_patch(folder / "job.yaml") == {}
