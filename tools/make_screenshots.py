"""The picture of a report in the README: two parts of the page side by side, as headless Chromium shows them.

python tools/make_screenshots.py runs/quickstart/report/report.html docs/images/report.png
"""

import io
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from selenium import webdriver

WIDTH, HEIGHT = 960, 1400
PARTS = ("h1", "#what-was-queried")  # what stands at the top of each


def main(page: Path, picture: Path) -> None:
    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or ""
        for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
                     "--hide-scrollbars", f"--window-size={WIDTH},{HEIGHT}", f"--user-data-dir={profile}"):  # fmt: skip
            options.add_argument(flag)
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            browser.get(page.resolve().as_uri())
            browser.execute_cdp_cmd(
                "Emulation.setDeviceMetricsOverride",
                {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False},
            )
            shots = [shot(browser, part) for part in PARTS]
        finally:
            browser.quit()
    whole = Image.new("RGB", (2 * WIDTH + 20, HEIGHT), "#888888")
    for place, image in enumerate(shots):
        whole.paste(image, (place * (WIDTH + 20), 0))
    whole.save(picture, optimize=True)


def shot(browser, part: str) -> Image.Image:
    """What a reader sees who has scrolled to `part`."""
    script = "window.scrollTo(0, document.querySelector(arguments[0]).getBoundingClientRect().top + scrollY - 20)"
    browser.execute_script(script, part)
    return Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
