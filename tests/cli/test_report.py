"""nacdeploy report: of a finished search, of one under way, of a transfer; opened in a browser."""

import json
import re
import subprocess
from html import unescape
from pathlib import Path

import pytest
from command_line import run, succeed

CHROMIUM = ("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run")
QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync")
WIDTHS_PX = (390, 1280)


@pytest.fixture
def searched(home: Path) -> Path:
    succeed("search", "--out", "runs/s")
    return Path("runs/s")


def test_search_leaves_its_report(searched: Path) -> None:
    text = (searched / "report.html").read_text()
    assert [f'id="{name}"' in text for name in ("front", "chain", "tree", "layers")] == [True] * 4
    chain = json.loads((searched / "result.json").read_text())["chain"]
    assert f"<h1>{chain} on resnet8, digits</h1>" in text
    kinds = [json.loads(line) for line in (searched / "tracking.jsonl").read_text().splitlines()]
    assert {row["name"] for row in kinds if row["kind"] == "media"} == {"front", "chain", "tree", "layers", "report"}


def test_report_is_made_again_to_the_same_bytes(searched: Path) -> None:
    succeed("report", searched, "--out", "again.html")
    assert Path("again.html").read_bytes() == (searched / "report.html").read_bytes()


def test_report_of_a_search_under_way_says_how_far_it_is(searched: Path) -> None:
    for name in ("result.json", "report.html"):
        (searched / name).unlink()
    journal = searched / "journal.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:3]) + b'{"chain": "to')
    assert "runs/s/report.html" in succeed("report", searched).out
    text = (searched / "report.html").read_text()
    assert "under way" in text
    assert "1 of 4 chains evaluated" in text


def test_report_of_a_transfer_shows_layers(home: Path) -> None:
    succeed("transfer", "--strategy", "PQ", "--out", "runs/t")
    text = (home / "runs/t/report.html").read_text()
    assert 'id="layers"' in text
    assert 'id="tree"' not in text


def test_report_of_something_else_is_refused(home: Path) -> None:
    Path("empty").mkdir()
    outcome = run("report", "empty")
    assert outcome.code == 2
    assert "holds neither a search nor a result" in outcome.err


# What a reader does, at one width: look for what sticks out, sort by score, go to the second mark by keys.
READING = """
const read = (frame) => {
  const page = frame.contentDocument, wide = page.documentElement;
  page.querySelectorAll("details").forEach((each) => { each.open = true; });
  const table = page.querySelectorAll("#section-search table")[1];
  const heads = [...table.tHead.rows[0].cells];
  const column = heads.findIndex((head) => head.textContent.startsWith("accuracy"));
  const seen = () => ({
    order: [...table.tBodies[0].rows].map((row) => row.cells[column].dataset.value),
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


@pytest.mark.slow
def test_page_of_the_whole_job_is_read_in_chromium_on_a_phone_and_on_a_desk(searched: Path, tmp_path: Path) -> None:
    succeed("export", "--from", searched, "--out", "shipped")
    succeed("bench", "shipped", "--out", "bench.json")
    succeed("report", searched, "--artifact", "shipped", "--bench", "bench.json", "--explain")
    page = (searched / "report.html").resolve()
    assert "CONSOLE" not in browsed(page, tmp_path).stderr
    frames = "".join(f'<iframe src="{page.as_uri()}" width="{width}" height="800"></iframe>' for width in WIDTHS_PX)
    frame = tmp_path / "frame.html"
    frame.write_text(f'<body>{frames}<pre id="found"></pre><script>{READING}</script></body>')
    shown = browsed(frame, tmp_path, "--allow-file-access-from-files")
    assert "CONSOLE" not in shown.stderr
    told = re.findall(r'<pre id="found">(.+?)</pre>', shown.stdout, re.DOTALL)
    assert told, shown.stdout
    for found in json.loads(unescape(told[0])):
        assert found["overflow"] <= 0 and found["outside"] == []
        rising, falling = ([float(each) for each in found[way]["order"]] for way in ("rising", "falling"))
        assert rising == sorted(rising) and falling == sorted(rising, reverse=True) and len({*rising}) > 1
        assert [each for each in found["rising"]["sorted"] if each] == ["ascending"]
        assert [each for each in found["falling"]["sorted"] if each] == ["descending"]
        assert [found["first"], found["next"]] == found["tips"][:2]
        assert found["isShown"] and found["isInside"]
        assert (found["stops"], found["titles"]) == (1, 0)


def browsed(page: Path, profile: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """The page's document as Chromium holds it after loading, and what Chromium logged."""
    logging = ("--enable-logging=stderr", f"--user-data-dir={profile / 'profile'}")
    command = [*CHROMIUM, *QUIET, *logging, *options, "--dump-dom", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
