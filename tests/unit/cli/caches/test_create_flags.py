"""No flag of `uimgacc create` is dropped without a word."""

import pytest
import typer.testing

from agent.cli import commands, output
from agent.cli.caches import cluster_changes, create_command

RUNNER = typer.testing.CliRunner()

STORE = ("tools", "--image", "nginx:1", "--store", "/does/not/exist")
CLUSTER = ("tools", "--image", "nginx:1")
FILE = ("--file", "/does/not/exist.yaml")
TARGET = ("r.io/app:1", "r.io/app:1-acc")


@pytest.mark.parametrize(
    ("call", "flag"),
    [
        *((CLUSTER, flag) for flag in (
            "--secret=s", "--ca=c", "--platform=linux/arm64", "--parallel=3", "--mkfs=mkfs.erofs",
            "--image-credential-provider-config=c", "--image-credential-provider-bin-dir=d",
        )),
        *((STORE, flag) for flag in (
            "--pull-secret=a/b", "--kubeconfig=k", "--system-namespace=n", "--no-wait",
        )),
        *((FILE, flag) for flag in (
            "--size=30", "--retention-days=3", "--namespace=team", "--pull-secret=a/b",
            "--plain-http=r:1", "--insecure=r:1", "--acr-instance=cri-a", "--parallel=3",
        )),
        *((TARGET, flag) for flag in (
            "--image=i", "--file=f", "--size=30", "--retention-days=3", "--pull-secret=a/b",
            "--acr-instance=cri-a", "--secret=s",
        )),
    ],
)  # fmt: skip
def test_a_flag_without_effect_is_refused_by_its_name(call, flag: str, monkeypatch) -> None:
    monkeypatch.delenv("UIMGACC_STORE", raising=False)
    monkeypatch.setenv("KUBECONFIG", "/does/not/exist")

    result = RUNNER.invoke(commands.app, ["create", *call, flag])

    assert result.exit_code == output.Status.USAGE
    assert result.stderr.startswith(f"uimgacc: {flag.partition('=')[0]}: ")


def test_what_the_environment_says_is_for_other_calls(monkeypatch) -> None:
    """UIMGACC_MKFS of a machine that also builds into stores."""
    monkeypatch.delenv("UIMGACC_STORE", raising=False)
    monkeypatch.setenv("KUBECONFIG", "/does/not/exist")
    monkeypatch.setenv("UIMGACC_MKFS", "/opt/mkfs.erofs")

    result = RUNNER.invoke(commands.app, ["create", *CLUSTER])

    assert "/does/not/exist" in result.stderr


def test_the_flags_of_a_cluster_are_in_the_manifest() -> None:
    wanted = create_command.Wanted(
        name="tools",
        images=("nginx:1",),
        size_gib=30,
        retention_days=3,
        namespaces=("team",),
        pull_secrets=("team/registry",),
        plain_http=frozenset({"r:1"}),
        insecure=frozenset({"r:2"}),
        acr_instances=("cri-a",),
    )

    (body,) = cluster_changes.manifests_of(wanted)

    assert body["metadata"]["annotations"] == {
        "uimgacc.io/plain-http-registry": "r:1",
        "uimgacc.io/insecure-registry": "r:2",
        "k8s.aliyun.com/acr-instance-ids": "cri-a",
    }
    assert body["spec"] == {
        "images": ["docker.io/library/nginx:1"],
        "imageCacheSize": 30,
        "retentionDays": 3,
        "imagePullSecrets": ["team/registry"],
        "namespaces": ["team"],
    }
