"""UCloud's messages, against the official SDK's own signature; and the HTTP around them."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Sequence

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from ucloud.core import auth
from ucloud.core.typesystem import encoder

from agent import errors
from agent.control.page import api_keys
from agent.model import images
from agent.ucloud import endpoint, protocol

KEYS = {"public": "a-long-private-key"}
SITUATION = protocol.Situation(
    enabled=True,
    nfs_ready=True,
    agent_ready=True,
    status=protocol.Status.READY,
    images=[protocol.Accelerated(original="r/a:1", target="r/a:2", size=5, layers=2)],
)


def signed(**parameters: object) -> dict[str, str]:
    """A form as the official SDK makes it."""
    form = dict(encoder.encode(parameters))
    form["Signature"] = auth.Credential("public", KEYS["public"]).verify_ac(form)
    return form


@given(st.dictionaries(st.text(min_size=1), st.text() | st.integers() | st.booleans()))
def test_the_signature_is_the_sdks(parameters) -> None:
    form = signed(**{key: value for key, value in parameters.items() if key != "Signature"})

    protocol.authenticate(form, KEYS)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"Action": "Other"}, protocol.RetCode.WRONG_SIGNATURE),
        ({"More": ""}, protocol.RetCode.WRONG_SIGNATURE),
        ({"Signature": "é"}, protocol.RetCode.WRONG_SIGNATURE),
        ({"Signature": "\ud800"}, protocol.RetCode.WRONG_SIGNATURE),
        ({"Signature": ""}, protocol.RetCode.MISSING_SIGNATURE),
        ({"PublicKey": "other"}, protocol.RetCode.UNKNOWN_KEY),
        ({"PublicKey": ""}, protocol.RetCode.MISSING_SIGNATURE),
    ],
)
def test_a_form_that_was_changed_is_refused(changes, code) -> None:
    with pytest.raises(protocol.ApiError) as caught:
        protocol.authenticate({**signed(Action="Get"), **changes}, KEYS)

    assert caught.value.code is code


@pytest.mark.parametrize(
    ("action", "parameters", "message"),
    [
        ("Enable", {}, "Missing params [NfsAddr]"),
        ("Enable", {"NfsAddr": "h", "UHubUsername": "a"}, "Missing params [UHubPassword]"),
        ("Enable", {"NfsAddr": "h", "UHubPassword": "a"}, "Missing params [UHubUsername]"),
        (
            "Enable",
            {"NfsAddr": "h", "UHubUsername": "a:b", "UHubPassword": "c"},
            "Params [UHubUsername]",
        ),
        ("Create", {"OriginalImage": "a:1"}, "Missing params [TargetImage]"),
        ("Create", {"TargetImage": "a:1"}, "Missing params [OriginalImage]"),
        ("Create", {"OriginalImage": "a:1", "TargetImage": "A:2"}, "Params [TargetImage]"),
        ("Create", {"OriginalImage": "a:1", "TargetImage": "a:1"}, "Params [TargetImage]"),
        (
            "Create",
            {"OriginalImage": "a:1", "TargetImage": f"a@sha256:{'0' * 64}"},
            "Params [TargetImage]",
        ),
        ("Delete", {}, "Missing params [Image]"),
        ("Delete", {"Image": "  "}, "Missing params [Image]"),
        ("Explode", {}, "Action [ExplodeUK8SImageAccelerate]"),
    ],
)
def test_what_is_wrong_is_named(action, parameters, message) -> None:
    with pytest.raises(protocol.ApiError) as caught:
        protocol.parse({"Action": f"{action}UK8SImageAccelerate", **parameters})

    assert str(caught.value).startswith(message)


SCRIPT = {"Region": "cn-wlcb", "ProjectId": "org-1", "ClusterId": "c"}
"""What the script of UCloud sends with every action."""


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ({"Image": "app:v1LTS"}, {"Image": "app:v1", "LTS": ""}),
        ({"Image": "app:v1-LTSx"}, {"Image": "app:v1-", "LTS": "x"}),
        ({"Image": "app:v1", "ProjectId": "org-1"}, {"Image": "app:v1ProjectIdorg-1"}),
        ({"Image": "app:v1"}, {"Image": "app:v1", "Image2": ""}),
    ],
)
def test_the_words_of_a_request_cannot_be_put_together_otherwise(was, becomes) -> None:
    """The signature has nothing between names and values: both have the same one, or nearly."""
    common = {"Action": "DeleteUK8SImageAccelerate", "ClusterId": "c", "Region": "cn-wlcb"}
    form = signed(**common, **was, PublicKey="public")
    changed = {**common, **becomes, "PublicKey": "public", "Signature": form["Signature"]}
    accepted = []
    for each in (form, changed):
        with contextlib.suppress(protocol.ApiError):
            protocol.authenticate(each, KEYS)
            accepted.append(protocol.parse(each))

    assert accepted in ([], [protocol.Delete(images.parse_reference(was["Image"]))])


WORDS = ("Image", "NfsAddr", "OriginalImage", "ProjectId", "PublicKey", "Region", "SubnetId")


def readings(text: str, names: Sequence[str]) -> Iterator[dict[str, str]]:
    """All ways to cut a text into names in their order, each with its value."""
    if not text:
        yield {}
    for position, name in enumerate(names):
        if text.startswith(name):
            rest = text[len(name) :]
            for end in range(len(rest) + 1):
                for after in readings(rest[end:], names[position + 1 :]):
                    yield {name: rest[:end], **after}


@given(
    st.dictionaries(
        st.sampled_from(["ClusterId", "Image", "ProjectId", "Region"]),
        st.lists(st.sampled_from([*WORDS, "a", "b:1"]), max_size=2).map("".join),
    )
)
def test_of_all_requests_with_one_signature_at_most_one_is_accepted(parameters) -> None:
    action = "DeleteUK8SImageAccelerate"
    form = {"Action": action, "PublicKey": "public", **parameters}
    text = "".join(f"{name}{form[name]}" for name in sorted(form) if name != "Action")
    names = sorted({*WORDS, "ClusterId"} - {"Action"})
    accepted = []
    for reading in readings(text, names):
        if reading.get("PublicKey") == "public":
            with contextlib.suppress(protocol.ApiError):
                accepted.append(protocol.parse({"Action": action, **reading}))

    assert len(accepted) <= 1


@pytest.mark.parametrize("empty", ["ProjectId", "SubnetId", "UHubUsername+UHubPassword", "Region"])
def test_what_the_script_sends_before_its_configuration_is_filled_in_is_accepted(empty) -> None:
    given = {"NfsAddr": "10.9.8.7", "SubnetId": "s", "UHubUsername": "a", "UHubPassword": "b"}
    form = {"Action": "EnableUK8SImageAccelerate", "PublicKey": "public", **SCRIPT, **given}

    found = protocol.parse({**form, **dict.fromkeys(empty.split("+"), "")})

    assert isinstance(found, protocol.Enable)
    assert found.nfs == "10.9.8.7"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"Image": "a:1", "Force": "true"}, "Params [Force] is not known"),
        ({"Image": "a:1", "TargetImage": "b:1"}, "Params [TargetImage] is not known"),
        ({"Image": ""}, "Missing params [Image]"),
        ({"Image": "a:1", "ClusterId": ""}, "Missing params [ClusterId]"),
        ({"Image": "a:1-PublicKey"}, "Params [Image] must not contain PublicKey"),
    ],
)
def test_what_is_not_of_an_action_is_refused_by_name(parameters, message) -> None:
    with pytest.raises(protocol.ApiError) as caught:
        protocol.parse({"Action": "DeleteUK8SImageAccelerate", **parameters})

    assert str(caught.value) == message


def test_an_image_is_known_by_its_whole_name() -> None:
    action = "CreateUK8SImageAccelerate"
    found = protocol.parse({"Action": action, "OriginalImage": "nginx", "TargetImage": "nginx:acc"})

    assert found == protocol.Create(
        images.parse_reference("docker.io/library/nginx:latest"),
        images.parse_reference("docker.io/library/nginx:acc"),
    )


@pytest.mark.parametrize("status", protocol.Status)
def test_images_are_hidden_while_something_is_under_way(status) -> None:
    found = protocol.described("A", dataclasses.replace(SITUATION, status=status))

    assert (found["Images"] == []) is (status.value in ("Creating", "Deleting"))
    assert found["Status"] == status.value


def test_a_password_is_not_shown() -> None:
    form = {"NfsAddr": "h", "UHubUsername": "a", "UHubPassword": "hunter2"}

    found = protocol.parse({"Action": "EnableUK8SImageAccelerate", **form})

    assert "hunter2" not in repr(found)


@given(st.dictionaries(st.text() | st.sampled_from(["Action", "Image", "NfsAddr"]), st.text()))
def test_any_parameters_are_a_request_or_refused(parameters) -> None:
    with contextlib.suppress(protocol.ApiError):
        protocol.parse(parameters)


class Actions:
    """Notes what is asked; fails on request."""

    def __init__(self) -> None:
        self.asked: list[protocol.Request] = []
        self.error: errors.AgentError | None = None

    async def do(self, request: protocol.Request) -> protocol.Situation | None:
        self.asked.append(request)
        if self.error is not None:
            raise self.error
        return SITUATION if isinstance(request, protocol.Get) else None


class Server:
    def __init__(self, url: str, session: aiohttp.ClientSession, actions: Actions) -> None:
        self.url = url
        self.session = session
        self.actions = actions

    async def send(self, data: object) -> dict[str, object]:
        async with self.session.post(self.url, data=data) as answer:
            assert answer.status == 200
            return await answer.json()


@pytest.fixture
async def server(tmp_path):
    (tmp_path / "keys").write_text(json.dumps(KEYS))
    actions = Actions()
    app = endpoint.application(endpoint.Api(actions, api_keys.Keys(tmp_path / "keys"), cluster="c"))
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with aiohttp.ClientSession() as session:
            port = runner.addresses[0][1]
            yield Server(f"http://127.0.0.1:{port}{endpoint.PATH}", session, actions)
    finally:
        await runner.cleanup()


async def test_an_answer_has_the_name_of_its_action(server) -> None:
    found = await server.send(signed(Action="GetUK8SImageAccelerate", ClusterId="c"))

    assert (found["Action"], found["RetCode"]) == ("GetUK8SImageAccelerateResponse", 0)
    assert found["Images"] == [
        {"OriginalImage": "r/a:1", "TargetImage": "r/a:2", "Size": 5, "Layers": 2}
    ]


async def test_a_form_with_a_field_twice_is_not_believed(server) -> None:
    form = signed(Action="GetUK8SImageAccelerate", ClusterId="c")

    found = await server.send([*form.items(), ("Action", "DisableUK8SImageAccelerate")])

    assert found["RetCode"] == protocol.RetCode.MISSING_SIGNATURE
    assert server.actions.asked == []


async def test_another_cluster_is_refused(server) -> None:
    found = await server.send(signed(Action="DisableUK8SImageAccelerate", ClusterId="d"))

    assert found["RetCode"] == protocol.RetCode.WRONG_PARAMETER
    assert server.actions.asked == []


async def test_an_internal_error_is_reported_without_its_details(server, caplog) -> None:
    server.actions.error = errors.TemporaryError("https://10.0.0.1 says secret things")

    found = await server.send(signed(Action="GetUK8SImageAccelerate", ClusterId="c"))

    assert found["RetCode"] == 150
    assert found["Message"] == "not possible at the moment: the controller's log has the reason"
    (record,) = [each for each in caplog.records if each.message == "a request failed"]
    assert "secret things" in record.reason


async def test_a_key_may_be_changed_while_it_runs(server, tmp_path) -> None:
    form = signed(Action="GetUK8SImageAccelerate", ClusterId="c")
    (tmp_path / "keys").write_text(json.dumps({"public": "another-private-key"}))

    assert (await server.send(form))["RetCode"] == protocol.RetCode.WRONG_SIGNATURE


async def test_missing_keys_are_named_with_their_place(server, tmp_path) -> None:
    (tmp_path / "keys").unlink()

    answer = await server.send(signed(Action="GetUK8SImageAccelerate", ClusterId="c"))

    assert answer["RetCode"] == protocol.RetCode.UNAVAILABLE
    assert answer["Message"].startswith(f"no API keys are installed: {tmp_path / 'keys'} is not")
    assert "Secret uimgacc-api" in answer["Message"]
    assert server.actions.asked == []


@pytest.mark.parametrize("content", ["", "[]", '{"public": "short"}', '{"public": 1}', "\xff"])
async def test_keys_that_are_none_open_nothing(server, tmp_path, content) -> None:
    (tmp_path / "keys").write_text(content, encoding="latin-1")

    found = await server.send(signed(Action="GetUK8SImageAccelerate", ClusterId="c"))

    assert found["RetCode"] == protocol.RetCode.UNAVAILABLE
    assert found["Message"].startswith(f"the API keys in {tmp_path / 'keys'} cannot be used")
    assert "short" not in found["Message"], "nothing of the content is repeated"
    assert server.actions.asked == []


async def test_any_body_gets_an_answer(server) -> None:
    bodies = [b"", b"\xff\xfe", b"=", b"&&&", b"a=%", b"a" * 200_000, b"Signature=\xf0&PublicKey=p"]
    bodies += [b"&".join(b"k%d=v" % number for number in range(100))]

    for body in bodies:
        assert (await server.send(body))["RetCode"] == protocol.RetCode.MISSING_SIGNATURE
    assert server.actions.asked == []
