"""What a build Job is told of credentials reaches the builder."""

import pathlib

from agent.roles import builder

ARGUMENTS = ["--store=/s", "--cache-id=imc-abc", "--name=n", "--image=a:1", "--capacity-gib=20"]


def test_instances_of_acr_are_arguments() -> None:
    found = builder.parse([*ARGUMENTS, "--acr-instance=cri-1", "--acr-instance=cn-a:cri-2"])

    assert found.settings.acr_instances == ("cri-1", "cn-a:cri-2")


def test_plug_ins_and_authorities_may_be_named_by_the_environment_of_all_builders(
    monkeypatch,
) -> None:
    monkeypatch.setenv("UIMGACC_IMAGE_CREDENTIAL_PROVIDER_CONFIG", "/c/config.yaml")
    monkeypatch.setenv("UIMGACC_IMAGE_CREDENTIAL_PROVIDER_BIN_DIR", "/c/bin")
    monkeypatch.setenv("UIMGACC_CA", "/c/ca.crt")

    found = builder.parse(ARGUMENTS)

    assert found.settings.plugin_config == pathlib.Path("/c/config.yaml")
    assert found.settings.plugin_folder == pathlib.Path("/c/bin")
    assert found.settings.registries.ca_file == "/c/ca.crt"
