"""The browser of the tests: a page that fails, asks for something or is hard to read is found."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import matplotlib.image
import pytest
from support.browser import PHONE, Browser


def write(folder: Path, body: str) -> Path:
    path = folder / "page.html"
    path.write_text(f"<!doctype html><meta charset=utf-8><title>t</title><body>{body}</body>")
    return path


@pytest.fixture
def server() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Access-Control-Allow-Origin", "*")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>served</title>")

        def log_message(self, *_: object) -> None:
            pass

    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{found.server_port}/"
    found.shutdown()
    found.server_close()


def test_a_page_that_throws_fails_the_test(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="it broke"), Browser(tmp_path) as browser:
        browser.open(write(tmp_path, "<script>throw new Error('it broke')</script>"))


def test_a_page_that_asks_elsewhere_fails_the_test(tmp_path: Path, server: str) -> None:
    done = "document.title === 'had'"
    page = write(
        tmp_path, f"<title></title><link rel=stylesheet href={server}data>"
        "<script>document.title = 'had'</script>",
    )  # fmt: skip
    with (
        pytest.raises(AssertionError, match=r"does not hold: .*data"),
        Browser(tmp_path) as browser,
    ):
        browser.open(page)
    with Browser(tmp_path, allowed=(server,)) as browser:
        browser.open(page)
        browser.wait(done)
        browser.open(server)  # and what a test opens itself
        assert browser.script("document.title") == "served"


def test_keys_clicks_widths_and_contrast_are_real(tmp_path: Path) -> None:
    page = write(
        tmp_path,
        "<input id=a><button onclick='this.textContent = a.value'>press</button>"
        "<p style='color:#999'>faint</p><p style='color:#777'>faint too</p><p>plain</p>"
        "<div style='width:500px'>wide</div>",
    )
    with Browser(tmp_path, PHONE) as browser:
        browser.open(page)
        browser.press("Tab")
        browser.type("Straße 2")
        browser.press("Shift+ArrowLeft", "x", "Tab")
        browser.click("button")
        assert browser.text("button") == "Straße x"
        assert browser.overflow() > 100
        browser.resize(1280, 900)
        assert browser.overflow() <= 0
        # by WCAG's formula #999 on white is 2.85, #777 is 4.48
        assert browser.faint() == ["faint (2.85)", "faint too (4.48)"]
        shown = matplotlib.image.imread(browser.screenshot(tmp_path / "s.png"))
        assert shown.shape[:2] == (900, 1280)
        with pytest.raises(AssertionError, match="in vain"):
            browser.wait("document.title === 'never'", seconds=0.1)
        with pytest.raises(AssertionError, match="no such element"):
            browser.click("#nothing")
