"""``pinrec --help`` lists every command, each in its place."""

from __future__ import annotations

from typer.testing import CliRunner

from pinrec_cli.main import ORDER, app


def test_the_help_lists_every_command_in_the_order_of_use():
    groups = {group.typer_instance.info.name for group in app.registered_groups}
    commands = {command.callback.__name__.replace("_", "-") for command in app.registered_commands}
    assert groups | commands == set(ORDER)
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0, result.exception
    listed = [words[1] for words in map(str.split, result.stdout.splitlines()) if words[:1] == ["│"] and len(words) > 2]
    assert [name for name in listed if name in ORDER] == list(ORDER)
