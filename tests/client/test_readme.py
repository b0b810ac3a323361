"""The examples of the client's README run as they stand, against the real Triton with the stand-in."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import shlex
from typing import Any

import pytest
from pinrec_client.__main__ import main
from pinrec_client.channel import DEFAULT_URL

from tests.client.conftest import StandIn
from tests.conftest import ROOT

README = (ROOT / "client" / "README.md").read_text("utf-8")
COMMANDS = re.findall(r"^python -m pinrec_client (.+)$", README, re.MULTILINE)
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
BUSY = 30.0  # seconds: the README's timeouts are for a service that has its machine to itself

pytestmark = pytest.mark.triton


def test_there_are_examples():
    assert len(COMMANDS) == 2
    assert len(PROGRAMS) == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(integer_service: StandIn, command: str, capsys: pytest.CaptureFixture[str]):
    assert main([*shlex.split(command), "--url", integer_service.url, "--timeout", str(BUSY)]) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize("program", PROGRAMS, ids=["blocking", "asyncio"])
def test_programs(integer_service: StandIn, program: str):
    assert f'"{DEFAULT_URL}"' in program
    program = re.sub(rf'"{DEFAULT_URL}"(, timeout=[\d.]+)?', f'"{integer_service.url}", timeout={BUSY}', program)
    code = compile(program, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    names: dict[str, Any] = {}
    if code.co_flags & inspect.CO_COROUTINE:
        asyncio.run(eval(code, names))
    else:
        exec(code, names)
    assert len(names["answer"].items) > 0
    for answer in names.get("answers", []):
        assert len(answer.items) > 0
