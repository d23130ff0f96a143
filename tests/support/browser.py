"""A real browser for tests: Chromium, driven over the WebDriver protocol, offline, by keyboard.

    with Browser(tmp_path) as browser:
        browser.open(page)
        browser.press("2", "Enter")
        browser.wait("document.title === 'done'")

Leaving the block fails the test if the page logged an error, or asked any address for anything but
the pages that were opened and what they hold themselves (`allowed` names more).
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar

from services.processes import end
from services.required import need

PHONE, DESK = (390, 844), (1280, 900)
"""Widths and heights of a window, CSS pixels."""

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic",
    "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-extensions", "--force-device-scale-factor=1",
    "--enable-unsafe-swiftshader",
)  # fmt: skip
_KEYS = {
    "Backspace": "\ue003", "Tab": "\ue004", "Enter": "\ue007", "Shift": "\ue008",
    "Control": "\ue009", "Alt": "\ue00a", "Escape": "\ue00c", "Space": "\ue00d",
    "PageUp": "\ue00e", "PageDown": "\ue00f", "End": "\ue010", "Home": "\ue011",
    "ArrowLeft": "\ue012", "ArrowUp": "\ue013", "ArrowRight": "\ue014", "ArrowDown": "\ue015",
    "Delete": "\ue017",
}  # fmt: skip
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # key of an element's reference, WebDriver 2
_OWN = ("data:", "blob:", "about:", "chrome:")  # what a page holds itself, or the browser
_CONTRAST = """(() => {
  const numbers = colour => (colour.match(/[\\d.]+/g) || []).map(Number);
  const light = colour => {
    const [r, g, b] = colour.map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const over = (top, ground) => {
    const alpha = top.length > 3 ? top[3] : 1;
    return [0, 1, 2].map(k => alpha * top[k] + (1 - alpha) * ground[k]);
  };
  const ground = element => element === null ? [255, 255, 255]
    : over(numbers(getComputedStyle(element).backgroundColor), ground(element.parentElement));
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
  while (texts.nextNode()) {
    const own = texts.currentNode.parentElement, text = texts.currentNode.textContent.trim();
    if (text === "" || own.closest("script, style") || own.getClientRects().length === 0) continue;
    const below = ground(own), one = light(below);
    const other = light(over(numbers(getComputedStyle(own).color), below));
    found.push([text, (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05)]);
  }
  return found;
})()"""  # of each text that is shown, and its contrast
_T = TypeVar("_T")
_PATIENCE = 20.0  # seconds: a loaded machine is slow


class Browser:
    """A window of Chromium with a profile of its own. Skips a test where there is no Chromium.

    Parameters
    ----------
    folder : of the test; the profile, downloads and the driver's log go below it.
    size : width and height of the window, CSS pixels.
    allowed : beginnings of addresses that pages may ask, beside the pages that were opened.
    """

    def __init__(
        self, folder: Path, size: tuple[int, int] = DESK, allowed: tuple[str, ...] = ()
    ) -> None:
        need("chromium", "chromedriver")
        self._home = folder / "browser"
        self.downloads = self._home / "downloads"
        self.downloads.mkdir(parents=True, exist_ok=True)
        self._size, self._allowed = size, allowed
        self._opened: list[str] = []
        self._logged: dict[str, list[Any]] = {"browser": [], "performance": []}
        self._session = ""

    def __enter__(self) -> Self:
        log = self._home / "chromedriver.log"
        with log.open("wb") as file:
            self._driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=file, stderr=file)
        try:
            port = _until(lambda: re.search(r"successfully on port (\d+)", log.read_text()), "port")
            self._base = f"http://127.0.0.1:{port[1]}/session"
            told = self._ask("POST", "", capabilities={"alwaysMatch": self._wanted()})
            self._session = "/" + told["sessionId"]
            self.resize(*self._size)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                errors = self.errors()
                assert errors == [], f"the page logged errors: {errors[:5]}"
                strange = [url for url in self.requests() if not self._may(url)]
                assert strange == [], f"a page asked what it does not hold: {strange[:5]}"
        finally:
            self._close()

    def _close(self) -> None:
        try:
            if self._session:
                self._ask("DELETE", "")  # ends Chromium
        finally:
            end([self._driver])

    def _wanted(self) -> dict[str, Any]:
        flags = [*_FLAGS, f"--user-data-dir={self._home / 'profile'}"]
        prefs = {"download.default_directory": str(self.downloads)}
        return {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": flags, "prefs": prefs},
            "goog:loggingPrefs": dict.fromkeys(self._logged, "ALL"),
            # a page that asks before it is left would wait for an answer
            "unhandledPromptBehavior": "accept",
        }

    def _ask(self, method: str, path: str, **body: Any) -> Any:
        """A command of the protocol; its answer's value."""
        data = json.dumps(body).encode() if method == "POST" else None
        asked = urllib.request.Request(
            self._base + self._session + path, data, {"Content-Type": "application/json"},
            method=method,
        )  # fmt: skip
        try:
            with urllib.request.urlopen(asked, timeout=3 * _PATIENCE) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            value = json.load(error)["value"]
            raise AssertionError(f"{value['error']}: {value['message']}") from error

    # -- what a person does

    def open(self, page: Path | str) -> None:
        """Show a page, from disk or from an address, and wait until it is loaded."""
        url = page.resolve().as_uri() if isinstance(page, Path) else page
        self._opened.append(url)
        self._ask("POST", "/url", url=url)

    def press(self, *keys: str) -> None:
        """Press and let go keys one after another: a letter, a name as Enter, or Shift+Tab."""
        actions = []
        for key in keys:
            held = key.split("+") if len(key) > 1 else [key]
            values = [_KEYS.get(one, one) for one in held]
            assert all(len(value) == 1 for value in values), f"there is no key {key}"
            actions += [{"type": "keyDown", "value": value} for value in values]
            actions += [{"type": "keyUp", "value": value} for value in reversed(values)]
        self._ask("POST", "/actions", actions=[{"type": "key", "id": "keys", "actions": actions}])

    def type(self, text: str) -> None:
        """Press the keys of a text."""
        self.press(*text)

    def click(self, css: str) -> None:
        """Click on the first element of a selector, as a mouse does."""
        found = self._ask("POST", "/element", using="css selector", value=css)
        self._ask("POST", f"/element/{found[_ELEMENT]}/click")

    def resize(self, width: int, height: int) -> None:
        """Give the page this many CSS pixels."""
        self._devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
            mobile=False,
        )  # fmt: skip

    # -- what a person sees

    def script(self, code: str, *values: Any) -> Any:
        """The value of a JavaScript expression; `values` are its `arguments`."""
        return self._ask("POST", "/execute/sync", script=f"return ({code})", args=list(values))

    def wait(self, code: str, *values: Any, seconds: float = _PATIENCE) -> Any:
        """The value of an expression as soon as it is true."""
        return _until(lambda: self.script(code, *values), code, seconds)

    def text(self, css: str) -> str:
        """What the first element of a selector says."""
        return str(self.script("document.querySelector(arguments[0]).innerText", css))

    def screenshot(self, path: Path, *, whole: bool = False) -> Path:
        """Save what the window shows, or the whole page, as a PNG."""
        shown = self._devtools("Page.captureScreenshot", captureBeyondViewport=whole)
        if whole:
            size = self._devtools("Page.getLayoutMetrics")["cssContentSize"]
            shown = self._devtools(
                "Page.captureScreenshot", captureBeyondViewport=True, clip={**size, "scale": 1}
            )
        path.write_bytes(base64.b64decode(shown["data"]))
        return path

    def overflow(self) -> int:
        """CSS pixels by which the page is wider than the window."""
        return int(self.script("document.documentElement.scrollWidth - window.innerWidth"))

    def faint(self, least: float = 4.5) -> list[str]:
        """Texts whose contrast to their ground is below a ratio; WCAG 2 asks for 4.5."""
        return [f"{text} ({ratio:.2f})" for text, ratio in self.script(_CONTRAST)
                if ratio < least]  # fmt: skip

    def downloaded(self, name: str) -> Path:
        """A file that the page saved, once it is whole."""
        path = self.downloads / name
        _until(lambda: path.is_file() and not list(self.downloads.glob("*.crdownload")), name)
        return path

    def errors(self) -> list[str]:
        """What the page logged as errors so far, uncaught exceptions among them."""
        told = self._log("browser")
        return [entry["message"] for entry in told if entry["level"] == "SEVERE"]

    def requests(self) -> list[str]:
        """Addresses that the page asked so far."""
        told = (json.loads(entry["message"])["message"] for entry in self._log("performance"))
        return [
            one["params"]["request"]["url"] for one in told
            if one["method"] == "Network.requestWillBeSent"
        ]  # fmt: skip

    def _log(self, name: str) -> list[Any]:
        """All entries: the driver hands out each but once."""
        self._logged[name] += self._ask("POST", "/se/log", type=name)
        return self._logged[name]

    def _may(self, url: str) -> bool:
        bare = url.partition("#")[0]
        return bare in self._opened or url.startswith((*_OWN, *self._allowed))

    def _devtools(self, command: str, **values: Any) -> Any:
        return self._ask("POST", "/goog/cdp/execute", cmd=command, params=values)


def _until(look: Callable[[], _T], what: str, seconds: float = _PATIENCE) -> _T:
    ends = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < ends, f"waited {seconds:g} s in vain: {what}"
        time.sleep(0.02)
    return found
