"""The agent's page as a person sees it: real Chromium, light and dark, wide and on a phone."""

import contextlib
from collections.abc import AsyncIterator

import pytest

from agent.kits.web import listener
from agent.node.report import status, status_http
from tests.pages import conftest
from tests.unit.node import statuses

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

AWAY = "sha256/ab/cd.erofs: the server of nfs.example.com:/export/images did not answer within 2 s"
HOSTILE = (
    "<script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "<a href=\"javascript:document.title='owned'\">x</a>",
    "</style><style>body{display:none}</style>",
    "<svg onload=document.title='owned'>",
    "{{7*7}} ${7*7} \u202e reversed",
    "<meta http-equiv=refresh content='0;url=http://127.0.0.1:9/'>",
)


@contextlib.asynccontextmanager
async def served(shown: status.Status) -> AsyncIterator[str]:
    app = status_http.application(lambda: shown, str)
    async with listener.serving(app, "127.0.0.1:0") as address:
        yield f"http://{address}/"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 768, 840, 1280])
async def test_it_can_be_read(chromium, width, dark) -> None:
    for shown in (statuses.busy(), statuses.busy(problem=AWAY, capable=False)):
        async with served(shown) as url, chromium.page(width=width, dark=dark) as page:
            await page.open(url)
            await page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
            contrast = await page.evaluate(conftest.CONTRAST)

            assert contrast["seen"] > 100
            assert contrast["poor"] == []
            assert await page.evaluate(conftest.OVERFLOW) == []
            assert await page.evaluate(conftest.STRUCTURE) == []
            assert await page.evaluate("innerWidth") == width
            assert page.complaints == []


async def test_light_and_dark_are_not_the_same(chromium) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    async with served(statuses.busy()) as url, chromium.page() as page:
        await page.open(url)
        light = await page.evaluate(colour)
        await page.look(width=1280, dark=True)

        assert light != await page.evaluate(colour)


async def test_tables_stay_tables_for_screen_readers_on_a_phone(chromium) -> None:
    """A browser takes rows and cells for plain blocks where the style makes them so."""
    async with served(statuses.busy()) as url, chromium.page(width=390) as page:
        await page.open(url)
        tree = await page.call("Accessibility.getFullAXTree")

    roles = [node.get("role", {}).get("value") for node in tree["nodes"]]
    assert {"table", "row", "rowheader", "cell", "columnheader"} <= set(roles)


@pytest.mark.parametrize("text", HOSTILE)
async def test_what_others_write_is_only_text(chromium, text) -> None:
    image = status.Image(image=text, outcome="hit", reason=text, cache=text)
    pod = statuses.pod(text, "miss", namespace=text, sentence=text, cache=text, images=[image])
    saving = statuses.saving(text, "pulls", statuses.PULLS, 30.0)
    base = statuses.busy()
    account = status.Savings(
        **{
            **{name: getattr(base.savings, name) for name in base.savings.__slots__},
            "last": [saving],
        }
    )
    shown = statuses.busy(problem=text, pods=[pod], savings=account, manifest_problems={text: text})
    async with served(shown) as url, chromium.page() as page:
        await page.open(url)
        title = await page.evaluate("document.title")
        body = await page.evaluate("document.body.textContent")
        foreign = await page.evaluate(
            "document.querySelectorAll('script, img, svg, body style, body meta, [onerror],"
            " [onload], [href^=javascript]').length"
        )

        assert title == "Node gpu-worker-17 · uimgacc"
        assert body.count(text) >= 8
        assert (foreign, page.complaints) == (0, [])
        assert await page.evaluate("getComputedStyle(document.body).display") == "block"


async def test_even_a_script_that_got_into_the_page_does_not_run(chromium, monkeypatch) -> None:
    """The second line of defence: the policy alone stops it."""
    injected = b"<script>document.title='owned'</script></body>"

    def damaged(render):
        return lambda shown, *, now: render(shown, now=now).replace(b"</body>", injected)

    monkeypatch.setattr(status_http.views, "render", damaged(status_http.views.render))
    async with served(statuses.busy()) as url, chromium.page() as page:
        await page.open(url)

        assert await page.evaluate("document.title") != "owned"
        assert any("Content Security Policy" in complaint for complaint in page.complaints)


async def test_it_works_with_scripts_switched_off(chromium) -> None:
    async with served(statuses.busy()) as url, chromium.page() as page:
        await page.call("Emulation.setScriptExecutionDisabled", value=True)
        await page.open(url)

        assert "trainer-0" in await page.evaluate("document.body.textContent")
