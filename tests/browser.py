"""Drives a real Chromium through its DevTools protocol: pages as people see them, keys as people press them.

The protocol comes over two pipes, so that no port is opened, and Chromium ends when its end is closed.
Debian's `chromium` is enough; without it the tests that take `tab` are skipped.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
WAIT_S = 20.0

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream=fps=20",
)
_KEY_CODES = {
    "Tab": 9,
    "Enter": 13,
    "Escape": 27,
    " ": 32,
    "End": 35,
    "Home": 36,
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowDown": 40,
    "v": 86,
}
_TEXTS = {"Enter": "\r", " ": " "}
CONTROL, SHIFT = 2, 8
# Polls within the page: neither side has to guess how long something takes.
_UNTIL = """new Promise((resolve, reject) => {{
  const end = performance.now() + {wait_ms};
  const look = () => {{
    const value = (() => {{ try {{ return {expression}; }} catch {{ return null; }} }})();
    if (value) resolve(value);
    else if (performance.now() > end) reject(new Error("never: " + {quoted}));
    else setTimeout(look, 15);
  }};
  look();
}})"""


class Browser:  # pragma: no cover - where there is no Chromium
    """One process of Chromium with an empty profile."""

    def __init__(self, profile_dir: Path) -> None:
        theirs_in, ours_out = _pipe()
        ours_in, theirs_out = _pipe()
        arguments = [*_FLAGS, f"--user-data-dir={profile_dir}", "--remote-debugging-pipe"]
        # It reads from descriptor 3 and writes to 4.
        script = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self._log = (profile_dir.parent / "chromium.log").open("wb")
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", str(CHROMIUM), *arguments],
            pass_fds=(theirs_in, theirs_out),
            stdout=self._log,
            stderr=self._log,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._in, self._out = ours_in, ours_out
        self._received = b""
        self._numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """The result of one command; what happens meanwhile is appended to `events`."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        sent = json.dumps(message).encode() + b"\0"
        while sent:  # a pipe takes a large message in pieces
            sent = sent[os.write(self._out, sent) :]
        end_s = time.monotonic() + WAIT_S + 5
        while True:
            answer = self.receive(end_s)
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def receive(self, end_s: float) -> dict[str, Any]:
        """The next message."""
        while b"\0" not in self._received:
            left_s = end_s - time.monotonic()
            assert left_s > 0, "Chromium does not answer"
            if select.select([self._in], [], [], left_s)[0]:
                chunk = os.read(self._in, 1 << 20)
                assert chunk, f"Chromium has ended: {Path(self._log.name).read_text()[-2000:]}"
                self._received += chunk
        message, _, self._received = self._received.partition(b"\0")
        parsed: dict[str, Any] = json.loads(message)
        return parsed

    def close(self) -> None:
        """Ends the process."""
        with contextlib.suppress(AssertionError, BrokenPipeError):
            self.call("Browser.close")
        os.close(self._out)
        os.close(self._in)
        try:
            self._process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


class Tab:  # pragma: no cover - where there is no Chromium
    """One page with cookies and storage of its own, and a record of what it did."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._start = len(browser.events)
        self._context = browser.call("Target.createBrowserContext")["browserContextId"]
        browser.call(
            "Browser.grantPermissions",
            permissions=["clipboardReadWrite", "clipboardSanitizedWrite"],
            browserContextId=self._context,
        )
        target = browser.call(
            "Target.createTarget", url="about:blank", browserContextId=self._context
        )
        attached = browser.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "Accessibility", "DOM"):
            self.call(f"{domain}.enable")
        self.resize(1280, 800)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of one command of the DevTools protocol."""
        return self._browser.call(method, self._session, **parameters)

    def events(self, method: str) -> list[dict[str, Any]]:
        """Parameters of all events of one kind since the tab was opened."""
        return [
            event["params"]
            for event in self._browser.events[self._start :]
            if event.get("method") == method and event.get("sessionId") == self._session
        ]

    def event(self, method: str) -> dict[str, Any]:
        """Waits for the first event of a kind."""
        end_s = time.monotonic() + WAIT_S
        while not self.events(method):
            self._browser.events.append(self._browser.receive(end_s))
        return self.events(method)[0]

    def open(self, url: str) -> None:
        """Goes there and waits until it is loaded."""
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def resize(self, width_px: int, height_px: int, scale: float = 1) -> None:
        """Gives the window a size; narrow ones are telephones."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width_px,
            height=height_px,
            deviceScaleFactor=scale,
            mobile=width_px < 600,
        )

    def prefer(self, **features: str) -> None:
        """What the user prefers, such as prefers_color_scheme="dark"."""
        listed = [{"name": n.replace("_", "-"), "value": v} for n, v in features.items()]
        self.call("Emulation.setEmulatedMedia", features=listed)

    def js(self, expression: str) -> Any:
        """The value of an expression in the page; promises are waited for."""
        answer = self.call(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        details = answer.get("exceptionDetails")
        assert details is None, details["exception"].get("description", details)
        return answer["result"].get("value")

    def until(self, expression: str) -> Any:
        """Waits until an expression in the page is true; what fails meanwhile does not count."""
        script = _UNTIL.format(
            expression=expression, quoted=json.dumps(expression), wait_ms=WAIT_S * 1000
        )
        return self.js(script)

    def text(self, selector: str) -> str:
        """The text of an element as it is seen."""
        value: str = self.js(f"document.querySelector({json.dumps(selector)}).innerText.trim()")
        return value

    def shows(self, selector: str) -> bool:
        """Whether an element can be seen."""
        found = f"document.querySelector({json.dumps(selector)})"
        return bool(self.js(f"{found}.checkVisibility({{opacityProperty: true}})"))

    def press(self, key: str, modifiers: int = 0, commands: tuple[str, ...] = ()) -> None:
        """Presses and releases a key; `commands` are what the system would make of it."""
        common = {"key": key, "modifiers": modifiers, "windowsVirtualKeyCode": _KEY_CODES[key]}
        text = {"text": _TEXTS[key]} if key in _TEXTS and not modifiers else {}
        down: dict[str, Any] = {**common, **text, "commands": list(commands)}
        self.call("Input.dispatchKeyEvent", type="keyDown", **down)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def tab_to(self, selector: str) -> int:
        """Presses Tab until an element has the focus; how often that took."""
        for count in range(40):
            if self.js(f"document.activeElement.matches({json.dumps(selector)})"):
                return count
            self.press("Tab")
        raise AssertionError(f"Tab never comes to {selector}")

    def type(self, text: str) -> None:
        """Types text into what has the focus."""
        self.call("Input.insertText", text=text)

    def centre(self, selector: str) -> tuple[float, float]:
        """Scrolls to an element; where its centre is then."""
        x, y = self.js(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'nearest'}); const r = e.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        return x, y

    def click(self, selector: str) -> None:
        """Clicks with the mouse on the centre of an element."""
        x, y = self.centre(selector)
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            button = "none" if kind == "mouseMoved" else "left"
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, clickCount=1)

    def hover(self, selector: str) -> None:
        """Moves the mouse over the centre of an element."""
        x, y = self.centre(selector)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def drag_file(self, path: Path, selector: str, *steps: str) -> None:
        """Drags a file from the desktop over an element: steps of dragEnter, dragOver, drop."""
        x, y = self.centre(selector)
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for step in steps or ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=step, x=x, y=y, data=data)

    def choose_file(self, path: Path) -> None:
        """Answers the file dialog that a click or a key has opened, see `intercept_file_dialog`."""
        node = self.event("Page.fileChooserOpened")["backendNodeId"]
        self.call("DOM.setFileInputFiles", files=[str(path)], backendNodeId=node)

    def intercept_file_dialog(self) -> None:
        """From now on, file dialogs wait for `choose_file`."""
        self.call("Page.setInterceptFileChooserDialog", enabled=True)

    def accessible(self) -> list[dict[str, Any]]:
        """What a screen reader is given: role, name and properties of every node that is not ignored."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [
            {
                "role": node["role"]["value"],
                "name": node.get("name", {}).get("value", ""),
                **{p["name"]: p["value"].get("value") for p in node.get("properties", ())},
            }
            for node in nodes
            if not node["ignored"]
        ]

    def requested(self) -> list[str]:
        """URLs of everything that was asked for, WebSockets among them."""
        plain = [event["request"]["url"] for event in self.events("Network.requestWillBeSent")]
        return plain + [event["url"] for event in self.events("Network.webSocketCreated")]

    def complaints(self) -> list[str]:
        """Everything that stands in red in the console."""
        calls = [
            str(event["args"])
            for event in self.events("Runtime.consoleAPICalled")
            if event["type"] in ("error", "warning")
        ]
        thrown = [
            str(event["exceptionDetails"]) for event in self.events("Runtime.exceptionThrown")
        ]
        entries = [event["entry"] for event in self.events("Log.entryAdded")]
        bad = [e["text"] for e in entries if e["level"] in ("error", "warning")]
        return calls + thrown + bad

    def screenshot(self, path: Path, *, whole_page: bool = False) -> None:
        """Writes what is seen as PNG."""
        taken = self.call("Page.captureScreenshot", captureBeyondViewport=whole_page)
        path.write_bytes(base64.b64decode(taken["data"]))

    def close(self) -> None:
        """Closes the page and forgets its storage."""
        self._browser.call("Target.disposeBrowserContext", browserContextId=self._context)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:  # pragma: no cover
    """One Chromium for the whole session, each tab with storage of its own."""
    if CHROMIUM is None:
        pytest.skip(
            "Chromium is not installed: `make setup-dev` does so as root where there is apt"
        )
    started = Browser(tmp_path_factory.mktemp("chromium") / "profile")
    yield started
    started.close()


@pytest.fixture
def tab(browser: Browser) -> Iterator[Tab]:  # pragma: no cover
    """A page of its own."""
    opened = Tab(browser)
    yield opened
    opened.close()


def _pipe() -> tuple[int, int]:  # pragma: no cover - where there is no Chromium
    """A pipe above the descriptors that Chromium wants for itself."""
    ends = os.pipe()
    moved = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return moved[0], moved[1]
