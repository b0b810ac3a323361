"""The dataset TOML: which mappings are accepted, and the messages for mistakes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pinrec_core.errors import ConfigError
from pinrec_core.ids import IdKind
from pinrec_core.preparation.schema import DatasetSpec, load_preset, load_spec, preset_names

MINIMAL = """
name = "shop"
outcomes = ["buy"]
[events]
files = ["*.csv"]
user = "u"
item = "i"
action = "a"
timestamp = "t"
"""


@pytest.fixture
def read(tmp_path) -> Callable[[str], DatasetSpec]:
    """The spec of a TOML text."""

    def read_text(text: str) -> DatasetSpec:
        (tmp_path / "shop.toml").write_text(text, "utf-8")
        return load_spec(tmp_path / "shop.toml")

    return read_text


def test_a_minimal_mapping_has_sensible_defaults(read):
    spec = read(MINIMAL)
    assert spec.items is None
    assert spec.actions == ("buy",)
    assert spec.events.columns == ("u", "i", "a", "t")
    assert spec.text_encoder == "hashed_ngram:256"


def test_id_kinds_and_every_action_are_read(read):
    spec = read('user_id_kind = "string"\nquery_actions = ["find"]\nignored_actions = ["see"]' + MINIMAL)
    assert spec.user_id_kind is IdKind.STRING
    assert spec.actions == ("buy", "find", "see")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colour = 1" + MINIMAL, r"shop.toml: DatasetSpec keys=\['colour'\]: expected only"),
        (MINIMAL + "users = 'x'", r"events.keys=\['users'\]"),
        (MINIMAL.replace('user = "u"', ""), "events.user is missing: expected a value"),
        (MINIMAL.replace('["buy"]', '"buy"'), "outcomes='buy': expected a list"),
        (MINIMAL.replace('["buy"]', "[]"), r"outcomes=\[\]: expected at least 1 of them"),
        (MINIMAL.replace('["*.csv"]', "[]"), "events.files"),
        ('query_actions = ["buy"]' + MINIMAL, r"actions=\['buy'\]: expected each action once"),
        (MINIMAL + 'time_unit = "minutes"', "events.time_unit='minutes': expected one of"),
        (MINIMAL + "order_only_time = 1", "events.order_only_time=1: expected true or false"),
        (MINIMAL + 'delimiter = ";;"', "events.delimiter=';;': expected one ASCII character that is neither a quote"),
        (MINIMAL + 'delimiter = ""', "events.delimiter='': expected one ASCII character"),
        (MINIMAL + 'delimiter = "é"', "events.delimiter='é': expected one ASCII character"),
        (MINIMAL + "delimiter = '\"'", "events.delimiter='\"': expected one ASCII character"),
        (MINIMAL + '[items]\nfiles=["i.csv"]\nid="i"\ndelimiter="\\n"', r"items.delimiter='\\n': expected one ASCII"),
        ("max_surfaces = 0" + MINIMAL, "max_surfaces=0"),
        ("max_surfaces = true" + MINIMAL, "max_surfaces=True: expected a whole number"),
        ('user_id_kind = "uuid"' + MINIMAL, "user_id_kind='uuid': expected one of"),
        (MINIMAL + '[items]\nfiles=["i.csv"]\nid="i"\nis_query="q"', "items.title"),
        ("name = ", "expected the mapping of a log as TOML"),
        ('events = 3\nname = "x"\noutcomes = ["buy"]', "expected a table"),
    ],
)
def test_a_mistake_is_named(read, text, message):
    with pytest.raises(ConfigError, match=message):
        read(text)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.toml"):
        load_spec(tmp_path / "absent.toml")


def test_presets_answer_to_their_name_and_to_their_folder():
    assert set(preset_names()) == {
        "ml100k", "yelp", "trivago", "globo", "ml1m", "beauty", "toys", "tmall", "taobao",
    }  # fmt: skip
    for name in preset_names():
        spec = load_preset(name)
        assert spec.name == name
        assert load_preset(spec.aliases[0]) == spec
    with pytest.raises(ConfigError, match="expected one of"):
        load_preset("movielens")
