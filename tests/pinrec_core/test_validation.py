"""The validator: what is refused and in which words, and that nothing else is changed on the way."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from pinrec_core.errors import ConfigError, DataError, ReleaseError
from pinrec_core.validation import (
    ListOf,
    OneOf,
    Text,
    check,
    from_plain,
    load_json,
    read_json,
    read_toml,
    save_json,
    to_plain,
    validated,
)


class Unit(StrEnum):
    SECONDS = "s"
    DAYS = "d"


@validated()
class Events:
    time_unit: OneOf[Unit] = Unit.SECONDS
    files: Annotated[ListOf[Text], Field(min_length=1)] = ("log.csv",)
    first: int = 0
    last: int = 10

    def __post_init__(self) -> None:
        check(self.first <= self.last, "first", self.first, f"at most last={self.last}")


@validated()
class RunSpec:
    seeds: ListOf[int] = (0,)
    share: Annotated[float, Field(ge=0, lt=1)] = 0.5


@validated(DataError)
class Study:
    name: Text
    events: Events
    runs: dict[str, RunSpec] = Field(default_factory=dict)
    also: RunSpec | None = None
    more: ListOf[RunSpec] = ()
    layers: Annotated[int, Field(gt=0, le=1 << 20)] = 1
    rate: Annotated[float, Field(gt=0.25)] = 0.5
    strict: bool = True
    delimiter: Annotated[str, Field(max_length=1)] | None = None
    code: Annotated[str, Field(min_length=2)] = "ab"
    slug: Annotated[str, Field(pattern="^[a-z]+$")] = "a"
    folder: Path | None = None
    metrics: dict[str, Any] = Field(default_factory=dict)


PLAIN: dict[str, Any] = {"name": "yelp", "events": {}}
STUDY_KEYS = sorted(field.name for field in dataclasses.fields(Study))
RUN_KEYS = "['seeds', 'share']"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        # A value of another type is refused, even if it could be converted.
        ({"layers": "5"}, "layers='5': expected a whole number"),
        ({"layers": 5.0}, "layers=5.0: expected a whole number"),
        ({"layers": True}, "layers=True: expected a whole number"),
        ({"layers": None}, "layers=None: expected a whole number"),
        ({"rate": "0.5"}, "rate='0.5': expected a finite number"),
        ({"rate": True}, "rate=True: expected a finite number"),
        ({"rate": math.nan}, "rate=nan: expected a finite number"),
        ({"rate": math.inf}, "rate=inf: expected a finite number"),
        ({"strict": 1}, "strict=1: expected true or false"),
        ({"strict": "true"}, "strict='true': expected true or false"),
        ({"name": 5}, "name=5: expected a text"),
        ({"name": datetime.date(2024, 5, 1)}, "name={'date': '2024-05-01'}: expected a text"),
        ({"folder": 5}, "folder=5: expected a text"),
        ({"runs": []}, "runs=[]: expected a table"),
        ({"more": {}}, "more={}: expected a list"),
        ({"events": 3}, "events=3: expected a table"),
        ({"also": [1]}, "also=[1]: expected a table"),
        # A value outside its bounds.
        ({"name": ""}, "name='': expected a text that is not empty"),
        ({"delimiter": ";;"}, "delimiter=';;': expected a length of at most 1"),
        ({"code": "a"}, "code='a': expected a length of at least 2"),
        ({"slug": "A b"}, "slug='A b': expected a text of the form ^[a-z]+$"),
        ({"layers": 0}, "layers=0: expected a value above 0"),
        ({"layers": 1 << 21}, "layers=2097152: expected a value of at most 1,048,576"),
        ({"rate": 0.25}, "rate=0.25: expected a value above 0.25"),
        ({"also": {"share": -0.5}}, "also.share=-0.5: expected a value of at least 0"),
        ({"also": {"share": 1}}, "also.share=1: expected a value below 1"),
        ({"events": {"time_unit": "h"}}, "events.time_unit='h': expected one of ['s', 'd']"),
        ({"events": {"time_unit": 1}}, "events.time_unit=1: expected one of ['s', 'd']"),
        ({"events": {"files": []}}, "events.files=[]: expected at least 1 of them"),
        ({"events": {"first": 11}}, "events.first=11: expected at most last=10"),
        # The place within lists and tables.
        ({"events": {"files": ["a", ""]}}, "events.files[1]='': expected a text that is not empty"),
        ({"runs": {"uc": {"seeds": ["0"]}}}, "runs.uc.seeds[0]='0': expected a whole number"),
        ({"runs": {"uc": 3}}, "runs.uc=3: expected a table"),
        ({"more": [{}, {"seeds": 1}]}, "more[1].seeds=1: expected a list"),
        # Unknown names, all of the same table at once.
        ({"b": 1, "a": 2}, f"Study keys=['a', 'b']: expected only {STUDY_KEYS}"),
        ({"events": {"x": 1}}, "events.keys=['x']: expected only ['files', 'first', 'last', 'time_unit']"),
        ({"runs": {"uc": {"sead": [1]}}}, f"runs.uc.keys=['sead']: expected only {RUN_KEYS}"),
        ({"also": {"sead": [1]}}, f"also.keys=['sead']: expected only {RUN_KEYS}"),
        ({"more": [{}, {"sead": [1]}]}, f"more[1].keys=['sead']: expected only {RUN_KEYS}"),
        # Long values are cut: the quotation mark counts among the 200 characters.
        ({"layers": "9" * 500}, f"layers='{'9' * 199}…: expected a whole number"),
        # A lone surrogate, which JSON can write and UTF-8 cannot.
        (
            {"name": "\ud800"},
            """Study='{"name": "\\\\ud800", "events": {}}': expected what JSON can hold """
            "(unexpected end of hex escape at line 1 column 17)",
        ),
    ],
)
def test_a_refusal_names_field_got_and_expected(changes, sentence):
    with pytest.raises(DataError) as refused:
        from_plain(Study, PLAIN | changes, error=DataError)
    assert str(refused.value) == sentence


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        ({"name": "yelp"}, "events is missing: expected a value"),
        ({"nmae": "yelp", "events": {}}, f"Study keys=['nmae']: expected only {STUDY_KEYS}"),  # name is missing, too
        ([], "Study=[]: expected a table"),
        (None, "Study=None: expected a table"),
    ],
)
def test_a_refusal_of_the_whole(raw, sentence):
    with pytest.raises(ConfigError) as refused:
        from_plain(Study, raw)
    assert str(refused.value) == sentence


def test_the_file_stands_in_front():
    with pytest.raises(ReleaseError) as refused:
        from_plain(Study, PLAIN | {"layers": 0}, error=ReleaseError, source=Path("a/b.json"))
    assert str(refused.value) == "a/b.json: layers=0: expected a value above 0"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"name": "yelp"}, "events is missing: expected a value"),
        ({"name": "yelp", "events": Events(), "x": 1}, f"Study keys=['x']: expected only {STUDY_KEYS}"),
        ({"name": "yelp", "events": {}}, "events={}: expected a table"),
        ({"name": "yelp", "events": Events(), "layers": "5"}, "layers='5': expected a whole number"),
        ({"name": "yelp", "events": Events(), "folder": "a"}, "folder='a': expected a Path"),
    ],
)
def test_a_constructor_checks_as_strictly_and_raises_the_error_of_its_class(values, sentence):
    with pytest.raises(DataError) as refused:
        Study(**values)
    assert str(refused.value) == sentence


def test_a_rule_of_the_class_itself_raises_the_error_of_the_class():
    with pytest.raises(ConfigError) as refused:
        Events(first=11)
    assert str(refused.value) == "first=11: expected at most last=10"


def test_a_copy_with_changes_is_checked_too():
    study = from_plain(Study, PLAIN)
    assert dataclasses.replace(study, layers=2).layers == 2
    for changes, sentence in [
        ({"layers": 0}, "layers=0: expected a value above 0"),
        ({"layer": 1}, r"keys=\['layer'\]: expected only"),
    ]:
        with pytest.raises(DataError, match=sentence):
            dataclasses.replace(study, **changes)
    with pytest.raises(ConfigError, match="first=11: expected at most last=10"):
        dataclasses.replace(study.events, first=11)
    with pytest.raises(dataclasses.FrozenInstanceError):
        study.layers = 2


def test_lists_and_names_are_taken_for_tuples_and_members():
    events = Events(time_unit="d", files=["a", "b"])
    assert (events.time_unit, events.files) == (Unit.DAYS, ("a", "b"))
    assert isinstance(events.time_unit, Unit)
    assert RunSpec(share=0).share == 0.0  # a whole number is a number


STUDIES = st.builds(
    Study,
    name=st.text(min_size=1),
    events=st.builds(Events, time_unit=st.sampled_from(Unit), first=st.integers(-5, 10)),
    runs=st.dictionaries(st.text(max_size=5), st.builds(RunSpec, seeds=st.lists(st.integers()).map(tuple))),
    also=st.none() | st.builds(RunSpec, share=st.floats(0, 1, exclude_max=True)),
    more=st.lists(st.builds(RunSpec), max_size=2).map(tuple),
    layers=st.integers(1, 1 << 20),
    rate=st.floats(0.25, allow_nan=False, allow_infinity=False, exclude_min=True),
    strict=st.booleans(),
    folder=st.none() | st.just(Path("a/b")),
    metrics=st.dictionaries(st.text(max_size=5), st.recursive(st.floats(allow_nan=False) | st.text(), st.lists)),
)


@given(STUDIES)
def test_what_is_turned_into_plain_data_and_into_text_comes_back(study):
    plain = to_plain(study)
    assert from_plain(Study, plain) == study
    assert from_plain(Study, json.loads(json.dumps(plain))) == study


def test_a_measurement_that_is_not_a_number_comes_back():
    study = from_plain(Study, PLAIN | {"metrics": {"recall": [math.nan, math.inf]}})
    recall = from_plain(Study, to_plain(study)).metrics["recall"]
    assert math.isnan(recall[0])
    assert recall[1] == math.inf


def test_a_file_comes_back_as_it_was_saved(tmp_path):
    study = from_plain(Study, PLAIN | {"name": "Zoë 东", "runs": {"uc": {"seeds": [1, 2]}}})
    save_json(study, tmp_path / "study.json")
    assert "Zoë 东" in (tmp_path / "study.json").read_text("utf-8")  # for people
    assert load_json(Study, tmp_path / "study.json", error=DataError, what="a study") == study


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "expected a study as JSON in UTF-8 (Expecting value: line 1 column 1 (char 0))"),
        (b'{"name": ', "expected a study as JSON in UTF-8 (Expecting value: line 1 column 10 (char 9))"),
        (b'{"name": "\xff"}', "expected a study as JSON in UTF-8 ('utf-8' codec can't decode byte 0xff in position 10: "
         "invalid start byte)"),
        (b"[" * 100_000, "expected a study as JSON in UTF-8 (maximum recursion depth exceeded"),
        (b"[1]", "expected a study, a table of names and values"),
        (b'"text"', "expected a study, a table of names and values"),
        (b'{"name": "yelp"}', "events is missing: expected a value"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_what_it_should_be(tmp_path, content, sentence):
    path = tmp_path / "study.json"
    path.write_bytes(content)
    with pytest.raises(ReleaseError) as refused:
        load_json(Study, path, error=ReleaseError, what="a study")
    assert str(refused.value).startswith(f"{path}: {sentence}")


def test_a_file_that_is_absent_or_cannot_be_read(tmp_path):
    (tmp_path / "file").write_text("{}")
    for path in (tmp_path / "none.json", tmp_path / "file" / "none.json"):
        with pytest.raises(DataError) as refused:
            read_json(path, error=DataError, what="a study", absent="write one")
        assert str(refused.value) == f"{path}: expected a study; write one"
        with pytest.raises(DataError) as refused:
            read_toml(path, error=DataError, what="a study")
        assert str(refused.value) == f"{path}: expected a study"
    with pytest.raises(DataError) as refused:
        read_json(tmp_path, error=DataError, what="a study", absent="write one")
    assert str(refused.value) == f"{tmp_path}: expected a study (Is a directory)"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"name = ", "expected a study as TOML in UTF-8 (Invalid value (at end of document))"),
        (b"name = '\xff'", "expected a study as TOML in UTF-8 ('utf-8' codec can't decode byte 0xff"),
        (b"layers = " + b"1" * 5000, "expected a study as TOML in UTF-8 (Exceeds the limit"),
        (b"layers = " + b"[" * 5000, "expected a study as TOML in UTF-8 (maximum recursion depth exceeded"),
    ],
)
def test_toml_that_is_damaged(tmp_path, content, sentence):
    path = tmp_path / "study.toml"
    path.write_bytes(content)
    with pytest.raises(DataError) as refused:
        read_toml(path, error=DataError, what="a study")
    assert str(refused.value).startswith(f"{path}: {sentence}")


def test_a_table_is_read_unchecked(tmp_path):
    (tmp_path / "a.json").write_text('{"x": [1, null]}')
    (tmp_path / "a.toml").write_text("[x]\ny = 2024-05-01")
    assert read_json(tmp_path / "a.json", error=DataError, what="x") == {"x": [1, None]}
    assert read_toml(tmp_path / "a.toml", error=DataError, what="x") == {"x": {"y": datetime.date(2024, 5, 1)}}
