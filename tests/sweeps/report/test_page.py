import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from symbreak.sweeps.report.figures.style import Figure, blank
from symbreak.sweeps.report.grids import Cell, Grid
from symbreak.sweeps.report.page import Page, render
from symbreak.sweeps.report.sentences import Sentence
from symbreak.sweeps.report.writing import compose
from symbreak.sweeps.run.record import Skipped

EVIL = "</script><script>alert(1)</script> \" ' & <!-- 😀 \u2028 <img src=x onerror=alert(2)>"


class Reader(HTMLParser):
    """Collects the texts, scripts and elements of a page."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.text, self.scripts, self.json, self.tags, self.attributes = [], [], [], [], {}
        self._inside = None

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.setdefault(tag, []).append(dict(attrs))
        if tag == "script":
            self._inside = self.json if ("type", "application/json") in attrs else self.scripts
            self._inside.append("")

    def handle_endtag(self, tag):
        if tag == "script":
            self._inside = None

    def handle_data(self, data):
        if self._inside is None:
            self.text.append(data)
        else:
            self._inside[-1] += data


def read(page):
    reader = Reader()
    reader.feed(page)
    return reader


@pytest.fixture(scope="module")
def evil_page():
    plot = blank(EVIL, "y")
    plot.add_scatter(x=[1], y=[1], name=EVIL, legendgroup="0")
    return Page(
        title=EVIL,
        facts=EVIL,
        sentences=[Sentence(EVIL, EVIL)],
        arms=Grid([EVIL], [[Cell(EVIL, EVIL)]]),
        runs=Grid([EVIL], [[Cell(EVIL, EVIL)]]),
        figures=[Figure("key", EVIL, EVIL, EVIL, plot)],
        skipped=[Skipped(EVIL, EVIL, EVIL, EVIL)],
        provenance=[(EVIL, EVIL, 1)],
        commands=[(EVIL, EVIL)],
    )


def test_hostile_text_is_shown_as_text(evil_page):
    reader = read(render(evil_page))
    assert "img" not in reader.tags
    assert reader.tags.count("script") == 3
    assert len(reader.scripts) == 2
    assert "".join(reader.text).count("alert(1)") >= 12
    assert json.loads(reader.json[0])["data"][0]["name"] == EVIL
    assert "<" not in reader.json[0]


def test_only_the_pages_own_scripts_may_run(evil_page):
    reader = read(render(evil_page))
    policy = next(meta["content"] for meta in reader.attributes["meta"] if "http-equiv" in meta)
    hashes = re.findall(r"'sha256-([^']+)'", policy)
    own = [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in reader.scripts]
    assert sorted(hashes) == sorted(own)
    assert "default-src 'none'" in policy
    assert "connect-src" not in policy


def test_long_and_odd_texts():
    name = "x" * 10_000
    page = render(Page(title=name, facts="lone \ud800 surrogate", sentences=[Sentence("y" * 30_000, "")]))
    assert name in page
    assert "lone ? surrogate" in page
    assert "y" * 20_001 not in page
    assert "(30000 characters)" in page
    page.encode("utf-8")


def test_nothing_is_loaded_from_elsewhere(sweep_table, sweep_figures):
    reader = read(render(compose(sweep_table, sweep_figures)))
    assert reader.tags.count("script") == 2 + len(sweep_figures)
    assert all("src" not in script for script in reader.attributes["script"])
    assert [link["href"] for link in reader.attributes["link"]] == ["data:,"]
    assert not {"img", "iframe", "object", "embed"} & set(reader.tags)


def test_every_section_is_there_and_linked(sweep_table, sweep_figures):
    reader = read(render(compose(sweep_table, sweep_figures)))
    anchors = [link["href"][1:] for link in reader.attributes["a"]]
    ids = [section["id"] for section in reader.attributes["section"]]
    assert anchors == ids
    assert len(ids) == len(set(ids))
    assert {"findings", "arms", "learning", "symmetry", "runs", "provenance"} <= set(ids)
    assert [figure["data-key"] for figure in reader.attributes["figure"]] == [figure.key for figure in sweep_figures]
    text = "".join(reader.text)
    assert "0123456789abcdef0123456789abcdef01234567" in text
    assert "symbreak fit --config sweeps/configs/digits.yaml" in text


def test_a_live_page_reloads_itself_and_a_finished_one_does_not():
    live, still = read(render(Page("t", "f", refresh=5.0))), read(render(Page("t", "f")))
    assert live.attributes["body"][0]["data-refresh"] == "5"
    assert {"class": "live"} in live.attributes["p"]
    assert still.attributes["body"][0]["data-refresh"] == "0"
    assert {"class": "live"} not in still.attributes["p"]
