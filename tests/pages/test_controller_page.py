"""The controller's page as a person sees and uses it: real Chromium, keys, forms."""

import contextlib
import json
import pathlib
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from agent.control.page import api_keys, page_data, page_routes
from tests.pages import conftest
from tests.unit.control import views
from tests.unit.control.page import test_page_html

pytestmark = pytest.mark.root

KEY = "a-long-private-key"
HOSTILE = (
    "<script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "</textarea></form><form action=https://evil.example.com>",
    "</style><style>body{display:none}</style>",
)


@contextlib.asynccontextmanager
async def served(
    folder: pathlib.Path, shown: page_data.View, client: test_page_html.Client
) -> AsyncIterator[str]:
    (folder / "keys").write_text(json.dumps({"public": KEY}))

    async def read() -> page_data.View:
        return shown

    app = web.Application()
    keys = api_keys.Keys(folder / "keys")
    page_routes.Pages(client, keys, read, clock=lambda: views.NOW).add_to(app)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://public:{KEY}@127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 768, 1280])
async def test_it_can_be_read(chromium, tmp_path, width, dark) -> None:
    for shown in (views.busy(), page_data.View(store_problem="the store does not answer")):
        async with (
            served(tmp_path, shown, test_page_html.Client()) as url,
            chromium.page(width=width, dark=dark) as page,
        ):
            await page.open(url)
            contrast = await page.evaluate(conftest.CONTRAST)

            assert contrast["seen"] > 15
            assert contrast["poor"] == []
            assert await page.evaluate(conftest.OVERFLOW) == []
            assert await page.evaluate(conftest.STRUCTURE) == []
            assert page.complaints == []


async def test_a_person_creates_and_deletes_a_cache(chromium, tmp_path) -> None:
    client = test_page_html.Client()
    async with served(tmp_path, views.busy(), client) as url, chromium.page() as page:
        await page.open(url)
        await page.evaluate("document.querySelector('[type=text]').value = 'new'")
        await page.evaluate("document.querySelector('[name=images]').value = 'r.io/a:1\\nr.io/b:2'")
        await page.follow("document.querySelector('form[action^=create]').requestSubmit()")
        said = "document.querySelector('[role=status]').textContent"
        assert "The cache new is being created." in await page.evaluate(said)

        await page.follow("document.querySelector('form[action^=delete]').requestSubmit()")
        assert "is being deleted" in await page.evaluate(said)
        assert page.complaints == []

    (created, deleted) = client.done
    assert created == ("create", "uimgacc.io", "new", {"images": ["r.io/a:1", "r.io/b:2"]})
    assert deleted[0] == "delete"


async def test_a_form_on_another_page_does_nothing(chromium, tmp_path) -> None:
    """Signed in as the person is: the browser sends the password by itself."""
    client = test_page_html.Client()
    async with served(tmp_path, views.busy(), client) as url, chromium.page() as page:
        await page.open(url)
        target = f"http://127.0.0.1:{url.rpartition(':')[2]}create-cache"
        form = f'<form method=post action="{target}"><input name=name value=a></form>'
        (tmp_path / "evil.html").write_text(f"<!doctype html><title>x</title>{form}")
        other = "data:text/html," + (tmp_path / "evil.html").read_text().replace(" ", "%20")
        await page.open(other)
        await page.follow("document.forms[0].submit()")

        assert "has expired, or is not from this page" in await page.evaluate(
            "document.body.textContent"
        )
    assert client.done == []


@pytest.mark.parametrize("text", HOSTILE)
async def test_what_others_write_is_only_text(chromium, tmp_path, text) -> None:
    async with (
        served(tmp_path, views.busy(text), test_page_html.Client()) as url,
        chromium.page() as page,
    ):
        await page.open(url)
        foreign = "document.querySelectorAll('script, img, body style, [onerror]').length"

        assert await page.evaluate("document.title") == "Image caches · uimgacc"
        assert (await page.evaluate("document.body.textContent")).count(text) >= 8
        assert await page.evaluate(foreign) == 0
        assert await page.evaluate("document.forms.length") == len(views.busy().caches)
        assert await page.evaluate("getComputedStyle(document.body).display") == "block"
