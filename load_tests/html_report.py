"""The report as one HTML page that needs no other file and no network, on a light or a dark background."""

from __future__ import annotations

from pathlib import Path

import jinja2
from markupsafe import Markup

from load_tests import report as texts
from load_tests.charts import charts
from load_tests.report import Report
from load_tests.results import TOTAL

TEMPLATE = Path(__file__).with_name("report.html.jinja")


def html(report: Report) -> str:
    """The whole page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = texts.number
    return environment.get_template(TEMPLATE.name).render(
        report=report,
        total=report.results[TOTAL],
        texts=texts,
        charts=[(caption, Markup(svg)) for caption, svg in charts(report)],
    )
