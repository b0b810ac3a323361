"""The command line as a whole."""

from __future__ import annotations

import re

from typer.testing import CliRunner

from pinrec_cli.main import ORDER, app


def test_the_help_lists_every_command_in_the_order_of_use():
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "120"}, catch_exceptions=False)
    assert shown.exit_code == 0
    assert tuple(re.findall(r"^│ ([a-z][a-z-]*) ", shown.stdout, re.MULTILINE)) == ORDER
