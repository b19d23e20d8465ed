"""What people do on the page of the service, step by step; see `browser.py` for how."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from browser import Tab

from appliance.records import Record

ANSWERED = (
    "document.querySelectorAll('.box').length > 0 && !document.querySelector('#timings').hidden"
)
FAILED = "!document.querySelector('#alert').hidden"
KNOWN = "document.querySelector('#model-name').textContent.startsWith('Model')"


@contextlib.contextmanager
def opened(
    tab: Tab, url: str, complaints: Sequence[str] = ()
) -> Iterator[None]:  # pragma: no cover - where there is no Chromium
    """Opens the page; afterwards, nothing was asked of others, and the console says no more than expected."""
    tab.open(f"{url}/")
    tab.until(KNOWN if complaints != ["401"] else "document.querySelector('#curl').innerText")
    yield
    origins = (url, url.replace("http", "ws"), "blob:", "about:")
    assert [asked for asked in tab.requested() if not asked.startswith(origins)] == []
    found = tab.complaints()
    unexpected = [text for text in found if not any(word in text for word in complaints)]
    assert (unexpected, bool(found)) == ([], bool(complaints))


def drop(tab: Tab, path: Path) -> None:  # pragma: no cover - where there is no Chromium
    tab.drag_file(path, "#stage")
    tab.until(ANSWERED)


def shown_record(tab: Tab) -> Record:  # pragma: no cover - where there is no Chromium
    return Record.from_row(json.loads(tab.js("document.querySelector('#record').textContent")))


def move_threshold(tab: Tab, to: float) -> None:  # pragma: no cover - where there is no Chromium
    tab.js(
        f"((slider) => {{ slider.value = {to}; slider.dispatchEvent(new Event('input')); }})"
        "(document.querySelector('#threshold'))"
    )
