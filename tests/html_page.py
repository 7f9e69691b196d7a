"""A page as a test reads it: parsed by Python's own parser, and drawn by Chromium over its debugging pipe."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

VOID = {"meta", "img", "br", "col"}
CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
_SWITCHES = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--remote-debugging-pipe"),
]
_LAUNCH = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"


class Page(HTMLParser):
    """What a parser finds in a page.

    Attributes:
        elements: tag and attributes of each, in order.
        texts: tag around it and text of each piece of text.
    """

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.texts, self._open = [], [], []
        self.feed(text)
        self.close()
        assert not self._open, f"{self._open} are not closed"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        assert len(dict(attributes)) == len(attributes), f"{tag} has an attribute twice"
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open, f"</{tag}> ends nothing"
        assert self._open.pop() == tag, f"</{tag}> ends another element"

    def handle_data(self, data):
        self.texts.append((self._open[-1] if self._open else "", data))

    def all(self, tag, class_=None):
        """The attributes of all elements of this tag, with a class."""
        found = [attributes for name, attributes in self.elements if name == tag]
        return [each for each in found if class_ in (each.get("class") or "").split()] if class_ else found

    @property
    def text(self):
        """All that is read."""
        return " ".join(" ".join(data for tag, data in self.texts if tag not in ("style", "title")).split())


def assert_harmless(text):
    """Checks that a page runs nothing, asks for nothing from elsewhere, and can be found one's way through."""
    page = Page(text)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "iframe", "object", "embed", "link", "base", "form", "input", "use", "image", "foreignobject"}
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, attributes)
            if name in ("href", "src", "xlink:href", "action", "data", "srcset"):
                assert value.startswith(("#", "data:image/png;base64,", "./")), (tag, value)
            assert name != "style", (tag, attributes)
    style = "".join(data for tag, data in page.texts if tag == "style")
    assert not [each for each in ("url(", "@import", "<") if each in style]
    policy = next(each["content"] for each in page.all("meta") if each.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    assert page.all("html")[0]["lang"] == "en"
    keys = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(keys)) == len(keys)
    assert {each["href"][1:] for each in page.all("a") if each["href"].startswith("#")} <= set(keys)
    levels = [int(tag[1]) for tag, _ in page.elements if tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(each.get("scope") in ("col", "row") for each in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(each.get("aria-label") or each.get("aria-hidden") == "true" for each in page.all("svg"))
    assert all(each.get("alt") for each in page.all("img"))
    return page


class Browser:
    """Chromium at the other end of a pipe."""

    def __init__(self, reader, writer):
        self._reader, self._writer, self._number, self.events = reader, writer, 0, []

    def call(self, method, session=None, **parameters):
        """The result of a command; what happened meanwhile is added to `events`."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters, **({"sessionId": session} if session else {})}
        self._writer.write(json.dumps(message).encode() + b"\0")
        self._writer.flush()
        while (found := self._read()).get("id") != self._number:
            self.events.append(found)
        assert "error" not in found, found
        return found["result"]

    def wait(self, event):
        """Reads until this has happened."""
        while not any(each.get("method") == event for each in self.events):
            self.events.append(self._read())

    def _read(self):
        content = b""
        while not content.endswith(b"\0"):
            byte = self._reader.read(1)
            assert byte, "Chromium has ended"
            content += byte
        return json.loads(content[:-1])

    def look(self, file, *, width, height, scheme, expression):
        """What `expression` gives on the page, what was asked for, and what was said on the console."""
        self.events.clear()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable", session)
        self.call("Emulation.setDeviceMetricsOverride", session, width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", session, features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.events.clear()
        self.call("Page.navigate", session, url=file.as_uri())
        self.wait("Page.loadEventFired")
        value = self.call("Runtime.evaluate", session, expression=expression, returnByValue=True)["result"]["value"]
        asked = [each["params"]["request"]["url"] for each in self.events if each.get("method") == "Network.requestWillBeSent"]
        said = [
            each for each in self.events if each.get("method") in ("Runtime.consoleAPICalled", "Log.entryAdded", "Runtime.exceptionThrown")
        ]
        self.call("Target.closeTarget", targetId=target)
        return value, [url for url in asked if not url.startswith("data:")], said


@contextmanager
def chromium():
    """Context with a browser that has no profile and no network of its own accord."""
    to_read, their_write = os.pipe()
    their_read, to_write = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [sys.executable, "-c", _LAUNCH, str(their_read), str(their_write), CHROMIUM, *_SWITCHES, f"--user-data-dir={profile}"]
        process = subprocess.Popen(
            command, pass_fds=(their_read, their_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=Path(profile)
        )
        os.close(their_read)
        os.close(their_write)
        with os.fdopen(to_read, "rb", buffering=0) as reader, os.fdopen(to_write, "wb") as writer:
            try:
                browser = Browser(reader, writer)
                yield browser
                browser.call("Browser.close")
            finally:
                try:
                    process.wait(timeout=10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
