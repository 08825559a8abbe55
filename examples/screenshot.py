"""A picture of a page that leapgen made, by a Chromium without a window (Debian: apt install chromium chromium-driver).

    python examples/screenshot.py run.html picture.png --at 3/2 --dark
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--at", default="", help="what follows the # in the address: PATH/BLOCK, ...")
    parser.add_argument("--size", default="1280x900", help="width and height in pixels")
    parser.add_argument("--dark", action="store_true")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    chrome = webdriver.ChromeOptions()
    chrome.binary_location = shutil.which("chromium")
    with tempfile.TemporaryDirectory() as profile:
        for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
                         "--hide-scrollbars", f"--user-data-dir={profile}"):
            chrome.add_argument(argument)
        driver = webdriver.Chrome(options=chrome, service=webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                                   {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False})
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [
                {"name": "prefers-color-scheme", "value": "dark" if options.dark else "light"}]})
            driver.get(f"{options.page.resolve().as_uri()}#{options.at}")
            shown = ".grid" if options.at else "main > *"
            WebDriverWait(driver, 20).until(lambda _: driver.execute_script(f"return document.querySelector('{shown}')"))
            driver.get_screenshot_as_file(str(options.picture))
        finally:
            driver.quit()


if __name__ == "__main__":
    main()
