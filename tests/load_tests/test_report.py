"""Tables, JSON and page of a report whose figures are known."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

from rich.console import Console

from load_tests.html_report import html
from load_tests.report import DriverResult, document, tables
from load_tests.results import SpikeResult
from load_tests.shapes import Shape
from load_tests.slo import Verdict
from tests.load_tests.figures import report


def _text(shown) -> str:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for part in tables(shown):
        console.print(part)
    return console.export_text()


def test_a_terminal_shows_every_part():
    text = _text(report())
    assert "refused: 10 requests (50.00%), told so after p50 1.0 ms, p99 1.0 ms" in text
    assert "held: up to 10.0 requests/s; saturated at 20.0 requests/s: p99 300 ms, allowed 250 ms" in text
    assert "freshness: 3 writes, visible after p50 15.0 ms, p99 25.0 ms; 0 invisible, 1 undecided" in text
    assert "600 → 610 MiB, at most 611 MiB; +2.0 MiB/h (95% interval -1.0 to +5.0)" in text
    assert "driver: 7% of a core, requests sent late by p99 3.0 ms" in text
    assert "WARNING" not in text
    assert re.search(r"p99_ms +│ all +│ ≤ 250.0 ms +│ 20.0 ms +│ yes", text)


def test_the_releases_of_a_stage_are_shown_together_and_apart():
    text = _text(report())
    # 30 and 10 requests: queue (30·1 + 10·5) / 40, compute (30·5 + 10·9) / 40, batch 40 / (30/2 + 10/1)
    assert re.search(r"generator +│ all +│ +40 │ +2.00 │ +6.00 │ +1.60 ", text)
    assert re.search(r"generator +│ r1 +│ +30 │ +1.00 │ +5.00 │ +2.00 ", text)
    assert re.search(r"generator +│ r2 +│ +10 │ +5.00 │ +9.00 │ +1.00 ", text)
    for release in ("all", "r1", "r2"):
        assert f'<td class="t">generator</td><td class="t">{release}</td>' in html(report())


def test_a_late_driver_is_a_warning():
    late = DriverResult(share=0.9, late_p50_ms=40.0, late_p99_ms=80.0)
    assert "WARNING: driver: 90% of a core" in _text(report(driver=late))
    assert document(report(driver=late))["driver"]["is_late"] is True


def test_the_json_document_has_every_figure():
    result = json.loads(json.dumps(document(report())))
    assert result["passed"] is True
    total = result["results"]["all"]
    assert (total["requests"], total["accepted"], total["refused"], total["failures"]) == (20, 10, 10, 0)
    assert (total["p50"], total["refused_p50"], total["refused_share"]) == (20.0, 1.0, 0.5)
    assert result["errors"] == {"UnavailableError: full": 10}
    assert (result["ramp"]["saturated_at"], len(result["ramp"]["steps"])) == (20.0, 3)
    assert result["stages"]["generator"]["requests"] == 40
    assert result["memory"]["slope"] == 2.0
    assert (len(result["timeline"]), len(result["stage_timeline"])) == (10, 2)


def test_one_objective_that_is_not_met_fails_the_run_and_one_that_is_not_judged_does_not():
    missed, unjudged = Verdict("a", "all", "1", "2", False), Verdict("b", "all", "1", "none", None)
    assert not report(verdicts=[missed]).passed
    assert report(verdicts=[unjudged]).passed
    assert report(verdicts=[]).passed


class Page(HTMLParser):
    """Notes what a page consists of and what it refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.plots = 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)
        self.plots += tag == "svg"
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "data", "action"):
                self.references.append(value)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in ("meta", "link", "img", "br"):
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_no_other_file():
    text = html(report())
    page = Page(text)
    assert page.open == []
    assert page.plots == 7  # latency, rates, two of saturation, queue, compute, memory
    assert len(page.ids) == len(set(page.ids)), "plots share one space of ids"
    assert all(reference.startswith("#") for reference in page.references)
    assert {reference[1:] for reference in page.references} <= set(page.ids)
    assert not re.search(r"<script|<link|<img|@import|url\((?!#)", text)


def test_the_page_escapes_what_it_is_given():
    text = html(report())
    assert "&lt;b&gt;&amp;" in text
    assert "<b>" not in text


def test_plots_follow_the_colours_of_the_page():
    text = html(report())
    assert "currentColor" in text
    assert "color-scheme: light dark" in text
    assert "#010203" not in text
    assert "fill: #ffffff" not in text


def test_a_spike_without_figures_of_other_shapes_makes_a_page():
    total = report().results["all"]
    spike = SpikeResult(before=total, spike=total, after=total, recovery=0.0, refused_from=0.2, refused_until=3.0)
    shown = report(
        shape=Shape.SPIKE, steps=[], saturation=None, spike=spike, spike_at=(2.0, 4.0), freshness=None, memory=None,
        memory_samples=[], models={}, stage_timeline=[], verdicts=[],
    )  # fmt: skip
    assert "10 refused, from 0.2 s to 3.0 s; within the limits 0 s after its end" in _text(shown)
    page = Page(html(shown))
    assert (page.plots, page.open) == (2, [])
