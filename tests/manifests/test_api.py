"""The component with UCloud's API and the page: what it says, and the rights it comes with."""

from agent.roles import controller_flags
from tests.manifests import rendering


def documents() -> list[rendering.Document]:
    return list(rendering.together("runtimeclass", "controller", "api"))


def test_the_command_reads_what_the_deployment_says(monkeypatch) -> None:
    deployment = rendering.only(documents(), "Deployment", "uimgacc-controller")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    environment = rendering.settings(documents(), container)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    arguments = [rendering.expanded(text, environment) for text in container["args"]]

    found = controller_flags.parse(arguments[1:])

    assert found.nfs == "nfs.example.internal:/uimgacc"
    assert found.api_keys is not None
    assert str(found.api_keys.parent) in [mount["mountPath"] for mount in container["volumeMounts"]]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert found.api_listen.endswith(f":{ports['api']}")


def test_the_service_leads_to_the_controller_s_port() -> None:
    service = rendering.only(documents(), "Service", "uimgacc-api")
    deployment = rendering.only(documents(), "Deployment", "uimgacc-controller")

    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    (port,) = service["spec"]["ports"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert port["targetPort"] in [each["name"] for each in container["ports"]]


def test_roles_name_what_there_is() -> None:
    """kustomize changes names in roles where a ConfigMap is called alike."""
    named = [
        (kind, name)
        for role in rendering.of_kind(documents(), "ClusterRole", "Role")
        for rule in role["rules"]
        for kind in rule["resources"]
        for name in rule.get("resourceNames", ())
    ]

    assert ("mutatingadmissionpolicybindings", "uimgacc-pods") in named
    rendering.only(documents(), "MutatingAdmissionPolicyBinding", "uimgacc-pods")
    assert ("daemonsets", "uimgacc-node") in named
    rendering.only(documents(), "DaemonSet", "uimgacc-node")
    # Made by the controller itself, under these names.
    assert {("configmaps", "uimgacc-ucloud"), ("secrets", "uimgacc-uhub")} <= set(named)
