"""What every page that fedpoet writes has to be."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

needs_chromium = pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium here")


class _Checker(HTMLParser):
    VOID = frozenset({"meta", "link", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_startendtag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def assert_asks_for_nothing(page: str) -> None:
    """No script, nothing loaded from elsewhere."""
    assert "<script" not in page
    assert not re.search(r'(src|href)="(?!#)', page)
    assert not re.search(r"@import|url\((?!#)", page)
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)


def assert_well_formed(page: str) -> None:
    """Every tag is closed, every id is there once, and no placeholder of a colour is left."""
    checker = _Checker()
    checker.feed(page)
    assert checker.open == []
    assert len(checker.ids) == len(set(checker.ids))
    assert not re.search(r"#0100[0-9a-f]{2}\b", page)


def assert_shown_by_a_browser(page: str, tmp_path: Path) -> None:
    """Headless Chromium, which may reach no host, draws every picture and complains of nothing."""
    file = tmp_path / "page.html"
    file.write_text(page, encoding="utf-8")
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--enable-logging=stderr",
        "--window-size=1080,2000",
    ]
    shot = tmp_path / "shown.png"
    dom = subprocess.run(
        [*command, "--dump-dom", file.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    subprocess.run(
        [*command, f"--screenshot={shot}", file.as_uri()],
        capture_output=True, timeout=120, check=True,
    )  # fmt: skip
    assert dom.stdout.count("<svg") == page.count("<svg") >= 1
    assert "CONSOLE" not in dom.stderr, dom.stderr
    assert shot.stat().st_size > 20_000  # an empty page of this size is smaller
