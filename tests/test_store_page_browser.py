"""The page of a catalogue in a real browser: names are text, pictures are pictures, nothing runs."""

from __future__ import annotations

import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import cv2
import pytest
from test_store_list import evil_catalogue

from tiekd_cache.store_page import store_page, write_page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PROBE = """<script>
addEventListener("load", function () {
  var sizes = Array.from(document.images, image => image.naturalWidth + "x" + image.naturalHeight).join(" ");
  document.body.setAttribute("data-sizes", sizes);
  document.body.setAttribute("data-ran", window.ran === undefined ? "nothing" : "something");
});
</script>"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium"),
]


def browse(page: Path, *arguments: str, profile: Path) -> str:
    """What headless Chromium prints for a page."""
    done = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            f"--user-data-dir={profile}", "--window-size=1200,1600", *arguments, page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_browser_shows_every_name_as_text_and_every_picture(tmp_path: Path) -> None:
    stores = evil_catalogue(tmp_path / "stores")
    page = store_page("stores", stores)
    file = tmp_path / "index.html"
    write_page(file, lambda: page.replace("alert(1)", "window.ran=1"))
    shown = browse(file, "--dump-dom", profile=tmp_path / "profile")
    assert "<script" not in shown  # the browser's own view of the elements
    assert "onerror" not in re.sub(r"&lt;.*?&gt;", "", shown)
    assert "<script>window.ran=1</script> \"'&amp; ü深度" in unescape(re.sub(r"<[^>]*>", "", shown))


def test_the_pictures_have_a_size_and_no_script_of_a_store_runs(tmp_path: Path) -> None:
    """A script of the test's own, for which the page's policy is taken out, looks at the page from within."""
    stores = evil_catalogue(tmp_path / "stores")
    page = store_page("stores", stores).replace("alert(1)", "window.ran=1")
    page, count = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    assert count == 1
    write_page(tmp_path / "probed.html", lambda: page.replace("<title>", f"{PROBE}<title>"))
    shown = browse(tmp_path / "probed.html", "--dump-dom", profile=tmp_path / "profile")
    assert 'data-sizes="240x144 240x144 240x144"' in shown
    assert 'data-ran="nothing"' in shown


def test_the_policy_of_the_page_forbids_scripts_besides(tmp_path: Path) -> None:
    page = store_page("stores", evil_catalogue(tmp_path / "stores"))
    write_page(tmp_path / "probed.html", lambda: page.replace("<title>", f"{PROBE}<title>"))
    assert "data-ran" not in browse(tmp_path / "probed.html", "--dump-dom", profile=tmp_path / "profile").replace(
        PROBE, ""
    )


def test_a_screenshot_shows_the_depth_colours(tmp_path: Path) -> None:
    write_page(tmp_path / "index.html", lambda: store_page("stores", evil_catalogue(tmp_path / "stores")))
    picture = tmp_path / "shot.png"
    browse(tmp_path / "index.html", f"--screenshot={picture}", profile=tmp_path / "profile")
    pixels = cv2.imread(str(picture))
    assert pixels is not None
    saturated = pixels.max(axis=2).astype(int) - pixels.min(axis=2) > 80
    assert saturated.sum() > 0.9 * 3 * 240 * 144  # three maps of one depth each, in one colour
