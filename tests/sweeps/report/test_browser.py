"""The page in a real browser: what is drawn, sorted, filtered and loaded."""

import shutil

import pytest
from tests.sweeps.report.example_runs import config_of, write_run

from symbreak.sweeps.report.command import report
from symbreak.sweeps.report.grids import UNKNOWN

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright's Python package is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt install chromium)")
EVIL = "<script>alert(1)</script> </script> \"quotes\" '&amp;' 😀 %{x} "


@pytest.fixture(scope="module")
def browser():
    # Software rendering for WebGL: the parallel coordinates need it, and test machines have no GPU.
    options = ["--no-sandbox", "--enable-unsafe-swiftshader"]
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def page_path(sweep_folder, tmp_path_factory):
    return report([str(sweep_folder)], tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture(scope="module")
def visit(browser):
    """Opens a page, waits until it is drawn, and fails on console errors and network requests."""
    contexts = []

    def open_page(path, width=1400, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.errors, page.requests = [], []
        page.on("console", lambda message: page.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("dialog", lambda dialog: page.errors.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: page.requests.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("body[data-ready=true]", timeout=60_000)
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def shared(visit, page_path):
    """One drawn page for all tests that leave it as good as new."""
    return visit(page_path)


def column(page, table, index):
    return page.eval_on_selector_all(f"#{table} tbody tr", f"rows => rows.map(row => row.cells[{index}].innerText)")


def luminance(page, selector, name):
    color = page.eval_on_selector(selector, f"node => getComputedStyle(node)['{name}']")
    return sum(int(part.strip()) for part in color[color.index("(") + 1 : -1].split(",")[:3]) / 765


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (390, "dark")])
def test_every_figure_is_drawn_without_errors_or_requests(visit, page_path, sweep_figures, width, scheme):
    page = visit(page_path, width, scheme)
    assert page.errors == []
    assert [url for url in page.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    drawn = page.eval_on_selector_all("figure[data-drawn=true]", "nodes => nodes.map(node => node.dataset.key)")
    assert drawn == [figure.key for figure in sweep_figures]
    marks = "nodes => nodes.map(node => node.querySelectorAll('.trace, image, canvas').length)"
    assert all(count > 0 for count in page.eval_on_selector_all("figure .plot", marks))
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    is_dark = scheme == "dark"
    assert (luminance(page, "body", "backgroundColor") < 0.5) == is_dark
    assert (luminance(page, "figure .xtick text", "fill") > 0.5) == is_dark


def test_the_theme_is_followed_while_the_page_is_open(visit, tmp_path):
    folder = write_run(tmp_path / "run", config_of(), 100)
    page = visit(report([str(folder)], tmp_path / "report.html"))
    before = luminance(page, "figure .xtick text", "fill")
    page.evaluate("document.body.dataset.ready = ''")
    page.emulate_media(color_scheme="dark")
    page.wait_for_selector("body[data-ready=true]", timeout=60_000)
    assert before < 0.5 < luminance(page, "figure .xtick text", "fill")
    assert page.errors == []


def test_tables_sort_both_ways_and_keep_unknowns_last(shared):
    page = shared
    heads = page.eval_on_selector_all("#runs-table th button", "nodes => nodes.map(node => node.innerText)")
    orders = {}
    for name in ("escape step", "growth per step"):
        index = heads.index(name)
        for direction in ("ascending", "descending"):
            page.locator("#runs-table th button").nth(index).click()
            orders[name, direction] = column(page, "runs-table", index)
            assert page.get_attribute(f"#runs-table th:nth-child({index + 1})", "aria-sort") == direction
    steps = orders["escape step", "ascending"]
    assert steps == [*sorted(steps[:-2], key=float), "never", "never"]
    assert orders["escape step", "descending"] == sorted(steps, key=lambda text: -float(text.replace("never", "inf")))
    assert orders["growth per step", "ascending"][-4:] == orders["growth per step", "descending"][-4:] == [UNKNOWN] * 4
    page.locator("#arms-table th button").first.click()
    names = column(page, "arms-table", 0)
    assert names == sorted(names, key=str.casefold)


def test_the_filter_keeps_rows_that_have_every_word(shared):
    page = shared
    page.fill("#filter", "ROUNDING finished")
    visible = page.eval_on_selector_all("#runs-table tbody tr:not([hidden])", "rows => rows.map(row => row.innerText)")
    assert len(visible) == 2
    assert all("rounding" in row for row in visible)
    assert page.inner_text("#shown") == "2 of 10 runs"
    page.fill("#filter", "")
    assert page.inner_text("#shown") == "10 of 10 runs"


def test_a_chip_hides_its_arm_in_every_figure(shared):
    page = shared
    page.click("#loss .chip:has-text('He init')")
    states = page.eval_on_selector_all(
        ".chip", "nodes => nodes.filter(n => n.innerText === 'He init').map(n => n.ariaPressed)"
    )
    assert len(states) >= 5
    assert set(states) == {"false"}
    hidden = "figure => figure.querySelector('.plot').data.filter(t => t.name === 'He init').map(t => t.visible)"
    for key in ("accuracy", "growth", "backward-correlation"):
        assert set(page.eval_on_selector(f"#{key}", hidden)) == {False}


def test_a_live_page_reloads_and_keeps_its_place(visit, sweep_folder, tmp_path):
    from symbreak.sweeps.report.figures import choose
    from symbreak.sweeps.report.page import render
    from symbreak.sweeps.report.table import load_runs
    from symbreak.sweeps.report.writing import compose

    table = load_runs([sweep_folder])
    path = tmp_path / "live.html"
    path.write_text(render(compose(table, choose(table)[:1], refresh=2.0)), encoding="utf-8")
    page = visit(path)
    page.fill("#filter", "dropout")
    page.click(".chip:has-text('He init')")
    with page.expect_navigation(timeout=20_000):
        pass
    page.wait_for_selector("body[data-ready=true]")
    page.click(".live button")
    assert page.input_value("#filter") == "dropout"
    assert page.inner_text("#shown") == "2 of 10 runs"
    assert page.get_attribute(".chip:has-text('He init')", "aria-pressed") == "false"
    assert page.errors == []


def test_hostile_names_are_text_in_the_page_and_in_the_figures(visit, tmp_path):
    write_run(tmp_path / "runs" / "1", config_of(noise=1e-3), 100, arm=EVIL)
    write_run(tmp_path / "runs" / "2", config_of(init=EVIL * 300), 100, arm="long " + "x" * 10_000)
    write_run(tmp_path / "runs" / "3", config_of(), 50, status="failed", error=EVIL * 200)
    page = visit(report([str(tmp_path / "runs")], tmp_path / "report.html"))
    assert page.errors == []
    assert page.evaluate("document.querySelectorAll('figure[data-drawn=true]').length") >= 5
    assert page.evaluate("document.documentElement.scrollWidth") <= 1400
    assert EVIL.strip() in column(page, "arms-table", 0)
    assert EVIL.strip() in page.locator("section#left-out pre").inner_text()
    chips = page.eval_on_selector_all("#loss .chip", "nodes => nodes.map(node => node.innerText)")
    assert chips[0].startswith("<script>alert(1)</script>")
    assert any("<script>alert" in text for text in page.locator("#final-accuracy .ytick text").all_text_contents())
