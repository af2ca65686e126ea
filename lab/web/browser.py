"""A real browser for pages that people look at: headless Chromium over its own protocol.

    async with browser.opened(folder) as chromium, chromium.page(width=360, dark=True) as page:
        await page.open("http://127.0.0.1:9465/")
        assert await page.evaluate("document.title") == "uimgacc"
        assert page.complaints == []

The protocol is https://chromedevtools.github.io/devtools-protocol/. It is spoken
here because a driver for a dozen calls would bring more code than they are.
"""

import asyncio
import contextlib
import itertools
import json
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from lab import places, processes

ROOT = places.LAB / "chromium"
SECONDS = 60.0
"""How long the browser may take for anything: a loaded machine is slow."""

# Chromium finds its own parts through /proc/self/exe, so it cannot be run through the loader
# as other parts are: it gets its packages as root folder instead, in a mount namespace that
# goes away with it, and that follows what is unmounted outside.
INSIDE = """
cd "$1"; shift
mkdir -p proc dev tmp
for name in lib lib64; do [ -e "$name" ] || ln -sfn "usr/$name" "$name"; done
mount --rbind /proc proc
mount --rbind /dev dev
mount -t tmpfs tmpfs tmp
exec chroot . /usr/lib/chromium/chromium-headless-shell "$@"
"""
FLAGS = (
    "--no-sandbox",  # which it refuses to make as root; the pages are ours
    "--disable-gpu",
    "--hide-scrollbars",
    "--user-data-dir=/tmp/profile",
)


class BrowserError(Exception):
    """The browser refused a command; the message is its own."""


class Page:
    """A tab. `complaints` are what a person would see in the browser's console."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._is_loaded = False
        self.complaints: list[str] = []

    async def open(self, url: str) -> None:
        """Go there; returns when everything is loaded."""
        self._is_loaded = False
        answer = await self.call("Page.navigate", url=url)
        if "errorText" in answer:
            raise BrowserError(f"{url}: {answer['errorText']}")
        async with asyncio.timeout(SECONDS):
            while not self._is_loaded:
                self._take(await self._socket.receive_json())

    async def follow(self, expression: str) -> None:
        """Do in JavaScript what leads to another page; returns when that is loaded."""
        self._is_loaded = False
        await self.evaluate(expression)
        async with asyncio.timeout(SECONDS):
            while not self._is_loaded:
                self._take(await self._socket.receive_json())

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise BrowserError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    async def look(self, *, width: int, dark: bool, height: int = 900) -> None:
        """Be a screen of that width, of a person who prefers dark or light pages."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command and return its result."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(SECONDS):
            while (answer := await self._socket.receive_json()).get("id") != number:
                self._take(answer)
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _take(self, event: dict[str, Any]) -> None:
        """Remember an event that came in between."""
        method, parameters = event["method"], event["params"]
        if method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.complaints.append(json.dumps(parameters))
        elif method == "Page.javascriptDialogOpening":
            self.complaints.append(f"dialog: {parameters['message']}")
        elif method == "Page.loadEventFired":
            self._is_loaded = True


class Browser:
    """A running Chromium, by the port on which it takes commands."""

    def __init__(self, session: aiohttp.ClientSession, port: int) -> None:
        self._session = session
        self._address = f"http://127.0.0.1:{port}"

    @contextlib.asynccontextmanager
    async def page(self, *, width: int = 1280, dark: bool = False) -> AsyncIterator[Page]:
        """A new tab with a clean history."""
        async with self._session.put(f"{self._address}/json/new?about:blank") as answer:
            target = await answer.json()
        async with self._session.ws_connect(
            target["webSocketDebuggerUrl"], max_msg_size=64 << 20
        ) as socket:
            page = Page(socket)
            for domain in ("Page", "Runtime", "Log"):
                await page.call(f"{domain}.enable")
            await page.look(width=width, dark=dark)
            yield page


@contextlib.asynccontextmanager
async def opened(folder: pathlib.Path) -> AsyncIterator[Browser]:
    """Start the browser, its log in `folder`; it ends with the context. Needs root."""
    port = processes.free_port()
    command = ["unshare", "--mount", "--propagation", "slave", "sh", "-eu", "-c", INSIDE, "sh"]
    process = processes.Process(
        [*command, ROOT, *FLAGS, f"--remote-debugging-port={port}"], folder / "chromium.log"
    )
    process.start()
    try:
        process.wait_for_socket(("127.0.0.1", port), seconds=SECONDS)
        timeout = aiohttp.ClientTimeout(total=SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            yield Browser(session, port)
    finally:
        process.end()
