"""What tests of several rooms share: one thread for small models, and a browser to look at pages with."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
from pages import Visit

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Workers take neighbouring tests, and later each other's: what a module prepares is made by one of them only."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.option.dist == "load" else None


@pytest.fixture(autouse=True)
def nothing_left_out() -> Iterator[None]:
    """What one test's files left out or missed is not told of another test's files."""
    from harness.partial_import import LEFT_OUT, MISSING

    yield
    LEFT_OUT.clear()
    MISSING.clear()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Torch on one thread, which is faster for small models, and the same on every machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Child processes are forks, for tests of what they do; what they import, and where they find that, only new ones show."""
    import torch
    from forks import start_fork

    from harness import recording
    from harness.export import clean_process
    from harness.training.checks import child_processes

    if hasattr(os, "fork") and not torch.cuda.is_available():  # which no fork can use
        for module in (clean_process, child_processes, recording):
            monkeypatch.setattr(module, "start_process", start_fork)


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium without a window; of a module and no longer, as no asyncio runs in a thread while Playwright does."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip(f"needs a browser: none of {', '.join(BROWSERS)} is on the PATH")
    with playwright.sync_playwright() as driver, driver.chromium.launch(executable_path=executable) as chromium:
        yield chromium


@pytest.fixture(scope="module")
def tab(browser: Browser) -> Page:
    """Where pages are opened, one after the other; to start again for each would take longer than most tests."""
    return browser.new_page()


@pytest.fixture
def visit(tab: Page, tmp_path: Path) -> Iterator[Callable[..., Visit]]:
    """Opens the text of a page at a width in pixels, in light or dark."""
    file = tmp_path / "page.html"
    seen = Visit(tab)
    listeners: dict[Any, Callable[[Any], None]] = {
        "console": lambda message: seen.complaints.append(message.text) if message.type in ("error", "warning") else None,
        "pageerror": lambda error: seen.complaints.append(str(error)),
        "request": lambda request: seen.requests.append(request.url) if request.url != file.as_uri() else None,
    }

    def open_page(html: str, width: int = 1280, scheme: Literal["light", "dark"] = "light") -> Visit:
        file.write_text(html, encoding="utf-8")
        tab.set_viewport_size({"width": width, "height": 844})
        tab.emulate_media(media="screen", color_scheme=scheme)
        tab.goto(file.as_uri())
        return seen

    for event, listener in listeners.items():
        tab.on(event, listener)
    yield open_page
    for event, listener in listeners.items():
        tab.remove_listener(event, listener)
