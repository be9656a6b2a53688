"""A real browser without a screen: Debian's chromium, driven by its chromedriver."""

import contextlib
import json
import os
import subprocess
from pathlib import Path

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from vmferry_lab import wait_until

ARGUMENTS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             "--disable-dev-shm-usage", "--no-proxy-server", 
             "--host-resolver-rules=MAP evil.example 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, "
             "EXCLUDE localhost"]


def trust(home: Path, ca: Path) -> None:
    """As a user would by the browser's settings."""
    database = home / ".pki" / "nssdb"
    database.mkdir(parents=True)
    for words in (["-N", "--empty-password"], ["-A", "-n", "cluster", "-t", "C,,", "-i", str(ca)]):
        subprocess.run(["certutil", "-d", f"sql:{database}", *words], check=True, capture_output=True)


class Browser:
    """One with a profile of its own; *dark*: what its user likes."""

    def __init__(self, folder: Path, *, dark: bool = False, width: int = 1280, height: int = 1000,
                 ca: Path | None = None):
        """*ca*: a certificate of an authority that its user trusts."""
        options = Options()
        options.binary_location = "/usr/bin/chromium"
        for argument in [*ARGUMENTS, f"--user-data-dir={folder / 'profile'}"]:
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        home = {**os.environ, "HOME": str(folder)}
        if ca:
            trust(folder, ca)
        self.driver = webdriver.Chrome(service=Service("/usr/bin/chromedriver", env=home), options=options)
        self.driver.set_page_load_timeout(30)
        self.driver.set_script_timeout(30)
        self.resize(width, height)
        self.like("dark" if dark else "light")

    def close(self) -> None:
        self.driver.quit()

    def resize(self, width: int, height: int = 1000) -> None:
        """Of the page, in CSS pixels; a window has a least width."""
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600})

    def like(self, scheme: str) -> None:
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {
            "features": [{"name": "prefers-color-scheme", "value": scheme}]})

    def open(self, url: str) -> None:
        self.driver.get(url)

    def open_badly(self, url: str) -> None:
        """A page that does not come; what the browser says instead is there then."""
        with contextlib.suppress(WebDriverException):
            self.driver.get(url)

    def script(self, text: str, *arguments):
        return self.driver.execute_script(text, *arguments)

    def all(self, css: str):
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def one(self, css: str):
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def text(self, css: str = "body") -> str:
        """What is shown of the first such element; "" where there is none."""
        return self.script("return document.querySelector(arguments[0])?.innerText ?? ''", css)

    def row(self, table: str, name: str):
        """The row of *name* in the table with that body; None where there is none."""
        return self.script("""return [...document.querySelectorAll(`#${arguments[0]} tr`)].find(
            (row) => row.querySelector('th b').textContent === arguments[1]) ?? null""", table, name)

    def row_text(self, table: str, name: str) -> str:
        """What is shown in it; "" where there is none.  The row may be gone at any moment, this does not mind."""
        return self.script("""return [...document.querySelectorAll(`#${arguments[0]} tr`)].find(
            (row) => row.querySelector('th b').textContent === arguments[1])?.innerText ?? ''""", table, name)

    def wait_text(self, css: str, text: str, seconds: float = 20) -> None:
        wait_until(lambda: text in self.text(css), f"{text!r} in {css}", seconds, 0.1)

    def click(self, element) -> None:
        """In the middle of the window: what is at its top is below the sections' names."""
        self.script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def push(self, css: str) -> None:
        self.click(self.one(css))

    def push_labelled(self, label: str) -> None:
        self.click(self.labelled(label))

    def labelled(self, label: str):
        """The button with that name."""
        return self.one(f'button[aria-label="{label}"]')

    def picture(self, path: Path) -> None:
        """The whole page."""
        height = self.script("return document.documentElement.scrollHeight")
        width = self.script("return innerWidth")
        self.resize(width, max(height, 400))
        self.driver.save_screenshot(str(path))
        self.resize(width)

    def complaints(self) -> list[str]:
        """What it said of errors since it was asked last."""
        return [json.dumps(entry) for entry in self.driver.get_log("browser")
                if entry["level"] == "SEVERE"]
