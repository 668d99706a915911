"""A report's page in Chromium, read as a reader does: looked at, sorted, gone through by keys, at the width of a phone
and of a desk."""

import json
import re
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

CHROMIUM = ("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run")
QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync")
WIDTHS_PX = (390, 1280)

# What a reader does, at one width: look for what sticks out, sort by score, go to the second mark by keys.
READING = """
const read = (frame) => {
  const page = frame.contentDocument, wide = page.documentElement;
  page.querySelectorAll("details").forEach((each) => { each.open = true; });
  const table = page.querySelectorAll("#section-search table")[1];
  const heads = [...table.tHead.rows[0].cells];
  const column = heads.findIndex((head) => head.textContent.startsWith("accuracy"));
  const seen = () => ({
    order: [...table.tBodies[0].rows].map((row) => row.cells[column].dataset.value ?? null),
    sorted: heads.map((head) => head.getAttribute("aria-sort")),
  });
  const button = heads[column].querySelector("button");
  button.click();
  const rising = seen();
  button.click();
  const falling = seen();
  const marks = [...page.querySelectorAll("#front [data-tip]")];
  marks[0].focus();
  const first = page.getElementById("tip").textContent;
  const key = new frame.contentWindow.KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true });
  marks[0].dispatchEvent(key);
  const next = page.getElementById("tip");
  const box = next.getBoundingClientRect();
  return {
    overflow: wide.scrollWidth - wide.clientWidth,
    outside: [...page.querySelectorAll("h1, h2, h3, p, dd, dt, figure, .card, .chart")].filter(
      (each) => each.getBoundingClientRect().right > wide.clientWidth + 0.5).map((each) => each.outerHTML.slice(0, 80)),
    rising, falling, first,
    next: next.textContent, isShown: !next.hidden, isInside: box.left >= 0 && box.right <= wide.clientWidth,
    tips: marks.map((mark) => mark.dataset.tip),
    stops: page.querySelectorAll("#front [tabindex='0']").length,
    titles: page.querySelectorAll("#front title").length,
  };
};
window.onload = () => {
  const found = [...document.querySelectorAll("iframe")].map(read);
  document.getElementById("found").textContent = JSON.stringify(found);
};
"""


def read_at_widths(page: Path, profile: Path) -> list[dict[str, Any]]:
    """What a reader found on a page at each width; nothing may have been logged.

    Raises:
        AssertionError: the page logged an error, or could not be read.
    """
    assert "CONSOLE" not in browsed(page, profile).stderr
    frames = "".join(f'<iframe src="{page.as_uri()}" width="{width}" height="800"></iframe>' for width in WIDTHS_PX)
    frame = profile / "frame.html"
    frame.write_text(f'<body>{frames}<pre id="found"></pre><script>{READING}</script></body>')
    shown = browsed(frame, profile, "--allow-file-access-from-files")
    assert "CONSOLE" not in shown.stderr, shown.stderr
    told = re.findall(r'<pre id="found">(.+?)</pre>', shown.stdout, re.DOTALL)
    assert told, shown.stdout
    found: list[dict[str, Any]] = json.loads(unescape(told[0]))
    return found


def check_reading(found: dict[str, Any]) -> None:
    """Check that nothing stuck out, a click sorted, and keys went from mark to mark."""
    assert found["overflow"] <= 0 and found["outside"] == [], (found["overflow"], found["outside"])
    for way in ("rising", "falling"):
        empty = [each is None for each in found[way]["order"]]
        assert empty == sorted(empty), way  # empty cells last, either way
    rising, falling = ([float(v) for v in found[way]["order"] if v is not None] for way in ("rising", "falling"))
    assert rising == sorted(rising) and falling == sorted(rising, reverse=True) and len({*rising}) > 1, found["rising"]
    assert [each for each in found["rising"]["sorted"] if each] == ["ascending"]
    assert [each for each in found["falling"]["sorted"] if each] == ["descending"]
    assert [found["first"], found["next"]] == found["tips"][:2], (found["first"], found["next"])
    assert found["isShown"] and found["isInside"], "the second value is not shown within the page"
    assert (found["stops"], found["titles"]) == (1, 0)


def browsed(page: Path, profile: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """The page's document as Chromium holds it after loading, and what Chromium logged."""
    logging = ("--enable-logging=stderr", f"--user-data-dir={profile / 'profile'}")
    command = [*CHROMIUM, *QUIET, *logging, *options, "--dump-dom", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
