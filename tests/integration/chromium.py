"""A headless Chromium, spoken to through its DevTools pipe: NUL-ended JSON on file descriptors 3 and 4."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TIMEOUT = 60.0  # seconds for one answer
CONTROLS = {"button", "textbox", "checkbox", "spinbutton", "link", "DisclosureTriangle", "radio", "combobox", "form"}
TEXTS = """(() => {
  const hex = (c) => "#" + c.match(/\\d+/g).slice(0, 3).map((n) => Number(n).toString(16).padStart(2, "0")).join("");
  const ground = (e) => {
    const colour = getComputedStyle(e).backgroundColor;
    return colour.startsWith("rgba") && colour.endsWith(" 0)") ? ground(e.parentElement) : hex(colour);
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), rows = [];
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement, text = walker.currentNode.textContent.trim();
    if (text && e.checkVisibility() && e.closest("button:disabled, .hidden, script") === null)
      rows.push([text, hex(getComputedStyle(e).color), ground(e)]);
  }
  return rows;
})()"""


def find_chromium() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Tab:
    """One empty tab. `events`: what it has reported so far."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read = write, read
        self._rest, self._calls = b"", 0
        self._session: dict[str, str] = {}
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._session = {"sessionId": session}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One DevTools command and its result."""
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": params} | self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + TIMEOUT
        while True:
            answer = self._next(deadline)
            if answer.get("id") == self._calls:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def open(self, url: str, width: int) -> None:
        """Load a page as a screen of `width` pixels shows it."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1,
                  mobile=width < 600)
        self.events.clear()
        self.call("Page.navigate", url=url)
        deadline = time.monotonic() + TIMEOUT
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next(deadline))

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, expression: str) -> None:
        """Until a JavaScript expression is true."""
        deadline = time.monotonic() + TIMEOUT
        while not self.value(expression):
            assert time.monotonic() < deadline, f"never true: {expression}; {self.value('document.body.innerText')}"
            time.sleep(0.02)

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self.call("Input.insertText", text=text)

    def press(self, key: str, modifiers: int = 0) -> None:
        """Press a key by its name; `modifiers`: 8 is Shift."""
        text = {"Enter": "\r", "Space": " "}.get(key, "")
        code = {"Enter": 13, "Tab": 9, "Escape": 27, "Space": 32}[key]
        named = {"key": text if key == "Space" else key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, modifiers=modifiers, **named)
        self.call("Input.dispatchKeyEvent", type="keyUp", modifiers=modifiers, **named)

    def trouble(self) -> list[dict[str, Any]]:
        """What the console shows of the page, and its uncaught exceptions."""
        names = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
        return [event for event in self.events if event["method"] in names]

    def requested(self) -> list[str]:
        """The URLs the page has asked for."""
        urls = [event["params"]["request"]["url"] for event in self.events
                if event["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith("data:")]

    def colours(self, *names: str) -> list[str]:
        """The page's CSS variables."""
        return self.value(f"(s => {json.dumps(names)}.map(n => s.getPropertyValue(n).trim()))"
                          "(getComputedStyle(document.documentElement))")

    def texts(self) -> list[tuple[str, str, str]]:
        """Every text that is seen, its colour, and that of the nearest ground behind it, as #rrggbb."""
        return [tuple(row) for row in self.value(TEXTS)]

    def nameless(self) -> list[str]:
        """The roles of the fields and buttons that a screen reader has no name for."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        roles = [(node.get("role", {}).get("value"), node.get("name", {}).get("value")) for node in nodes
                 if not node["ignored"]]
        return [role for role, name in roles if role in CONTROLS and not name]

    def scheme(self, name: str) -> None:
        """Light or dark, from the next page on."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def screenshot(self, file: Path) -> None:
        """The screen as PNG."""
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "Chromium does not answer"
            chunk = os.read(self._read, 65536)
            assert chunk, "Chromium has ended"
            self._rest += chunk
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)


@contextmanager
def tab(binary: str, profile: Path) -> Iterator[Tab]:
    """A tab of a new Chromium, which is gone afterwards."""
    (to_read, to_write), (from_read, from_write) = os.pipe(), os.pipe()
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (to_read, from_write)]  # clear of 3 and 4
    arguments = [binary, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                 "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(["bash", "-c", f'exec "$@" 3<&{high[0]} 4>&{high[1]}', "bash", *arguments],
                               pass_fds=high, stderr=subprocess.DEVNULL)
    for fd in (to_read, from_write, *high):
        os.close(fd)
    try:
        yield Tab(to_write, from_read)
    finally:
        process.terminate()
        process.wait(timeout=TIMEOUT)
        os.close(to_write)
        os.close(from_read)


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2.2, from #rrggbb."""
    def luminance(colour: str) -> float:
        parts = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
