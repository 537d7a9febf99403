"""A headless Chromium, driven over the DevTools protocol: pages are loaded, asked and photographed.

with Browser(tmp_path) as browser:
    page = browser.open("http://127.0.0.1:9809/")
    page.wait("document.querySelector('#state').textContent === 'live'")
    assert page.value("document.title") == "n1: wirespeed"
    assert not page.complaints
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import websocket

PATIENCE = 60.0  # seconds; a wait that takes longer fails
PROGRAMS = ("chromium-headless-shell", "chromium")
# As root in a container: no sandbox, and no /dev/shm, which is small there. It fetches only what tests ask for.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--hide-scrollbars",
    "--no-first-run",
    "--no-proxy-server",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
)


def program() -> str | None:
    """The path of Chromium, None if there is none."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


class Browser:
    """A running browser, whose profile is in `folder`."""

    def __init__(self, folder: Path, *flags: str) -> None:
        found = program()
        assert found, f"install {PROGRAMS[0]}"
        command = [found, *FLAGS, *flags, f"--user-data-dir={folder / 'profile'}"]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        lines = []
        for line in self._process.stderr:  # "DevTools listening on ws://127.0.0.1:41234/devtools/browser/<id>"
            lines.append(line)
            if line.startswith("DevTools listening on "):
                self._url = line.split()[-1]
                break
        else:
            raise AssertionError(f"Chromium ended: {''.join(lines)}")

    def __enter__(self) -> Browser:
        self._devtools = _DevTools(self._url)
        return self

    def __exit__(self, *_: object) -> None:
        self._devtools.call("Browser.close")  # with its child processes, which a signal would leave
        self._devtools.close()
        self._process.wait(PATIENCE)
        if self._process.stderr is not None:
            self._process.stderr.close()

    def open(self, url: str, *, width: int = 1280, height: int = 900, dark: bool = False) -> Page:
        """Load a page in a window of this size, in CSS pixels."""
        page = Page(self._devtools)
        page.resize(width, height)
        page.dark(dark)
        page.go(url)
        return page


class Page:
    """A tab. `complaints` are what the page logged as a warning or an error, and exceptions that nobody caught."""

    def __init__(self, devtools: _DevTools) -> None:
        self._devtools = devtools
        target = devtools.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = devtools.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    @property
    def complaints(self) -> list[str]:
        self.value("0")  # events that came before its answer have been read then
        return self._devtools.complaints.get(self._session, [])

    def forget(self) -> None:
        self._devtools.complaints.pop(self._session, None)

    def go(self, url: str) -> None:
        """Load another page, with its scripts."""
        before = self._devtools.loaded[self._session]
        answer = self._call("Page.navigate", url=url)
        assert "errorText" not in answer, answer
        while self._devtools.loaded[self._session] == before:
            self._devtools.read()

    def resize(self, width: int, height: int) -> None:
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )

    def dark(self, on: bool) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if on else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def value(self, expression: str) -> Any:
        """Evaluate JavaScript in the page; return its value, of a promise what it becomes."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until a condition of the page's document holds: it is evaluated after each frame."""
        poll = f"""new Promise((resolve, reject) => {{
            const end = performance.now() + {PATIENCE * 1000};
            const look = () => {{
                if ({condition}) resolve(true);
                else if (performance.now() > end) reject(new Error(document.body.innerText));
                else setTimeout(look, 20);
            }};
            look();
        }})"""
        assert self.value(poll)

    def press(self, key: str, text: str = "") -> None:
        """Press a key, named as in KeyboardEvent.key."""
        codes = {"Enter": 13, "Tab": 9, "Escape": 27}
        event = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key], **({"text": text} if text else {})}
        self._call("Input.dispatchKeyEvent", type="keyDown", **event)
        self._call("Input.dispatchKeyEvent", type="keyUp", **event)

    def type(self, text: str) -> None:
        """Type into the element that has the focus."""
        self._call("Input.insertText", text=text)

    def picture(self) -> bytes:
        """The window as a PNG."""
        return base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"])

    def _call(self, method: str, **arguments: Any) -> dict[str, Any]:
        return self._devtools.call(method, self._session, **arguments)


class _DevTools:
    """The connection to the browser: calls, and the events between their answers."""

    def __init__(self, url: str) -> None:
        self._socket = websocket.create_connection(url, timeout=PATIENCE + 10)
        self._number = 0
        self.complaints: dict[str, list[str]] = {}  # by session
        self.loaded: Counter[str] = Counter()  # pages that were loaded, by session

    def call(self, method: str, session: str = "", **arguments: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": arguments}
        self._socket.send(json.dumps({**message, **({"sessionId": session} if session else {})}))
        while (answer := self.read()).get("id") != self._number:
            pass
        assert "error" not in answer, (method, answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    def read(self) -> dict[str, Any]:
        """Wait for the next message of the browser, and return it."""
        message: dict[str, Any] = json.loads(self._socket.recv())
        if text := _complaint(message):
            self.complaints.setdefault(message["sessionId"], []).append(text)
        if message.get("method") == "Page.loadEventFired":
            self.loaded[message["sessionId"]] += 1
        return message

    def close(self) -> None:
        self._socket.close()


def _complaint(event: dict[str, Any]) -> str:
    about = event.get("params", {})
    if event.get("method") == "Runtime.exceptionThrown":
        details = about["exceptionDetails"]
        return f"exception: {details.get('exception', {}).get('description') or details['text']}"
    if event.get("method") == "Runtime.consoleAPICalled" and about["type"] in {"error", "warning", "assert"}:
        return f"console: {[each.get('value') for each in about['args']]}"
    if event.get("method") == "Log.entryAdded" and about["entry"]["level"] in {"error", "warning"}:
        return f"log: {about['entry']['text']} {about['entry'].get('url', '')}"
    return ""
