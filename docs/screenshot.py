"""Take a picture of a TensorBoard page, or of a report, in headless Chromium, as docs/pictures has them.

    pip install selenium        # and Debian's packages chromium and chromium-driver
    python docs/screenshot.py outputs/train docs/pictures/tensorboard.png "scalars&tagFilter=loss|acc"
    python docs/screenshot.py outputs/sweeps/rates/report.html docs/pictures/report.png --size 1100,1690

Starts TensorBoard on the folder, opens the page, waits until its curves are drawn, and stops it. The pages
custom_scalars and images, and explain.png (with --size 1280,4000 --element "#layer-0"), are of

    python -m cnnexp.train diagnostics=full trainer.max_epochs=3 data.train_size=20000 backward=fused
    python -m cnnexp.explain run=latest image=18

and that of the report is of

    python -m cnnexp.train -m sweep.name=rates optimizer=adam,momentum,sgd optimizer.lr=0.001,0.01,0.1 \\
        "seed=range(3)" data.train_size=10000 trainer.max_epochs=3 backward=fused hydra.launcher.jobs=2
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(address: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).read()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


def take(
    address: str, picture: Path, size: str, seconds: float, element: str | None = None
) -> None:
    options = webdriver.ChromeOptions()
    for flag in (*FLAGS, f"--window-size={size}"):
        options.add_argument(flag)
    browser = webdriver.Chrome(options, Service("/usr/bin/chromedriver"))
    try:
        browser.get(address)
        time.sleep(seconds)
        if element is None:
            browser.save_screenshot(str(picture))
        else:
            browser.find_element(By.CSS_SELECTOR, element).screenshot(str(picture))
    finally:
        browser.quit()


def of_tensorboard(folder: Path, picture: Path, page: str, size: str, seconds: float) -> None:
    port = free_port()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(f"http://127.0.0.1:{port}/data/environment")
        take(f"http://127.0.0.1:{port}/#{page}", picture, size, seconds)
    finally:
        server.terminate()
        server.wait(timeout=20)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="take a picture of a TensorBoard page or a report")
    parser.add_argument("folder", type=Path, help="or a report.html")
    parser.add_argument("picture", type=Path)
    parser.add_argument("page", nargs="?", default="timeseries")
    parser.add_argument("--size", default="1500,1000")
    parser.add_argument("--seconds", type=float, default=20.0, help="to wait for the curves")
    parser.add_argument("--element", help="a CSS selector: of a report or page, only this part")
    options = parser.parse_args()
    if options.folder.suffix == ".html":
        address = options.folder.resolve().as_uri()
        take(address, options.picture, options.size, options.seconds, options.element)
    else:
        of_tensorboard(options.folder, options.picture, options.page, options.size, options.seconds)
