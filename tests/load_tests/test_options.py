"""The command line: what is refused before a request is sent, and that its help teaches."""

from __future__ import annotations

import os
from argparse import Namespace

import pytest

from load_tests.options import parser, prepare, shape_options
from load_tests.shapes import BEFORE, Shape
from pinrec_core.errors import ConfigError, PinRecError
from tests.load_tests.conftest import WriteDataset


def test_the_defaults_can_be_run(write_dataset: WriteDataset):
    folder = write_dataset()
    for shape in Shape:
        options = parser().parse_args(["--dataset", str(folder), "--shape", shape.value])
        schedule, objectives = prepare(options)
        assert schedule.measured
        assert objectives.p99_ms is not None


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("--mix unifrom", "one of \\['log', 'uniform'\\]"),
        ("--json absent/report.json", "--json='absent/report.json': expected a file in a folder that exists"),
        ("--users 0", "--users=0: expected a value above 0"),
        ("--request-timeout -1", "--request-timeout=-1.0: expected a value above 0"),
        ("--server-pid none", "--server-pid='none': expected the id of a process"),
        ("--server-pid 4194999", "expected the id of a process"),  # above the kernel's largest process id
        ("--slo absent.toml", "absent.toml: expected service level objectives"),
        ("--rate 0", "--rate=0.0: expected a value above 0"),
    ],
)
def test_what_cannot_be_run_is_refused(write_dataset: WriteDataset, line: str, sentence: str):
    options = parser().parse_args(["--dataset", str(write_dataset()), *line.split()])
    with pytest.raises(PinRecError, match=sentence):
        prepare(options)


def test_the_parent_process_can_be_the_server(write_dataset: WriteDataset):
    options = parser().parse_args(["--dataset", str(write_dataset()), "--server-pid", "parent"])
    prepare(options)
    assert options.server_pid == os.getppid()


def test_texts_of_a_web_form_are_numbers():
    default = vars(parser().parse_args(["--dataset", "d"]))
    options = Namespace(**default | {"duration": "5", "factor": ""})
    assert shape_options(options).schedule(Shape.SPIKE).step(BEFORE).end == 3 + 5
    with pytest.raises(ConfigError, match="duration='x': expected a number"):
        shape_options(Namespace(**default | {"duration": "x"}))


def test_the_help_says_what_shapes_are_for_and_shows_examples():
    text = parser().format_help()
    for shape in Shape:
        assert f"  {shape.value} " in text
    assert "--shape spike --rate 15 --factor 5" in text
