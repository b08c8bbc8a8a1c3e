"""A report of 200 runs x 1,000 steps x 100 keys: time, memory, size of the page, and how soon a browser shows it."""

import shutil
import time
from pathlib import Path

from tests.benchmarks.commands import run_measured
from tests.sweeps.report.example_runs import write_large


def seconds_in_a_browser(page: Path) -> tuple[float, float]:
    """Until a headless browser has loaded the page, and until it has drawn the last figure."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--enable-unsafe-swiftshader"]
        tab = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=options).new_page()
        begun = time.perf_counter()
        tab.goto(page.as_uri())
        loaded = time.perf_counter() - begun
        tab.wait_for_selector("body[data-ready=true]", timeout=120_000)
        return loaded, time.perf_counter() - begun


def test_report(benchmark, record, tmp_path):
    runs, page = write_large(tmp_path / "runs", 200, 1000, 100), tmp_path / "report.html"
    seconds, peak = benchmark.pedantic(run_measured, args=("report", runs, "-o", page), rounds=1)
    record("seconds to write it, imports included", seconds, "<= 15")
    record("peak memory, GB", peak, "<= 2")
    record("size of the page, MB", page.stat().st_size / 1e6, "< 10")
    if shutil.which("chromium"):
        loaded, drawn = seconds_in_a_browser(page)
        record("seconds until a browser has loaded it", loaded, "<= 3")
        record("seconds until its last figure is drawn", drawn)
