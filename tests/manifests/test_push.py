"""The component with the endpoint for registries' notifications."""

from agent.roles import controller_flags
from tests.manifests import rendering


def documents() -> list[rendering.Document]:
    return list(rendering.together("runtimeclass", "controller", "push"))


def test_the_command_reads_what_the_deployment_says_and_the_service_leads_there(
    monkeypatch,
) -> None:
    deployment = rendering.only(documents(), "Deployment", "uimgacc-controller")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    environment = rendering.settings(documents(), container)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    arguments = [rendering.expanded(text, environment) for text in container["args"]]

    found = controller_flags.parse(arguments[1:])

    assert found.push_tokens is not None
    assert str(found.push_tokens.parent) in [
        each["mountPath"] for each in container["volumeMounts"]
    ]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert found.push_listen.endswith(f":{ports['push']}")
    service = rendering.only(documents(), "Service", "uimgacc-push")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    (port,) = service["spec"]["ports"]
    assert port["targetPort"] in ports


def test_it_comes_with_no_right() -> None:
    kinds = ("ClusterRole", "Role")
    without = rendering.together("runtimeclass", "controller")
    names = [each["metadata"]["name"] for each in rendering.of_kind(documents(), *kinds)]

    assert names == [each["metadata"]["name"] for each in rendering.of_kind(without, *kinds)]
