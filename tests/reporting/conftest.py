"""A real browser for the pages that cnnexp writes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Drawn = Callable[[Path], str]


@pytest.fixture
def drawn() -> Drawn:
    """Draw a page in headless Chromium: what its document has become; it must have said nothing."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("no chromium here (Debian: chromium)")

    def draw(page: Path) -> str:
        done = subprocess.run(
            [
                *(
                    browser,
                    "--headless",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--enable-logging=stderr",
                ),
                *("--virtual-time-budget=20000", "--dump-dom", page.as_uri()),
            ],
            capture_output=True,
            text=True,
            check=True,
            timeout=180,
        )
        assert 'data-ready="yes"' in done.stdout
        said = [line for line in done.stderr.splitlines() if "CONSOLE" in line and "GL" not in line]
        assert said == []
        return done.stdout

    return draw
