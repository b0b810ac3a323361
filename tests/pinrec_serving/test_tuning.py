"""Tuning: the file, which machine it is for, and a search that keeps what helps twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pinrec_core.errors import ConfigError, ServerError
from pinrec_serving.tuning import (
    TUNING_FILE,
    Machine,
    Setting,
    StageTuning,
    Tuning,
    load_tuning,
    save_tuning,
    search,
    tuned_setting,
)

SETTING = Setting(threads=2, stages={"generator": StageTuning(instances=3, queue_delay_us=500)})


def tuning(**changes: object) -> Tuning:
    values = {
        "machine": Machine.here(), "release": 'r"1', "clients": 16, "requests_per_second": 250.0,
        "default_requests_per_second": 200.0, "setting": SETTING,
    }  # fmt: skip
    return Tuning(**{**values, **changes})


def test_the_file_gives_back_what_was_found(tmp_path: Path) -> None:
    save_tuning(tuning(), tmp_path / TUNING_FILE)
    assert load_tuning(tmp_path / TUNING_FILE) == tuning()
    uncompiled = tuning(setting=replace(SETTING, compiled=False))
    save_tuning(uncompiled, tmp_path / TUNING_FILE)
    assert load_tuning(tmp_path / TUNING_FILE) == uncompiled
    assert [p.name for p in tmp_path.iterdir()] == [TUNING_FILE]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("threads = 2", "threads = 0", r"setting\.threads=0: expected a value of at least 1"),
        ("threads = 2", "thread = 2", r"setting\.keys=\['thread'\]: expected only \['compiled', 'stages', 'threads'\]"),
        ("stages.generator", "stages.ranker", r"stages='ranker': expected one of \['signal_fetch', 'id_embedder'"),
        ("queue_delay_us = 500", 'queue_delay_us = "500"', r"queue_delay_us='500': expected a whole number"),
        ("cores = ", "cores = = ", "expected a tuning as TOML"),
    ],
)
def test_a_slip_in_the_file_is_named(tmp_path: Path, before: str, after: str, message: str) -> None:
    path = tmp_path / TUNING_FILE
    save_tuning(tuning(), path)
    path.write_text(path.read_text("utf-8").replace(before, after), "utf-8")
    with pytest.raises(ConfigError, match=rf"{TUNING_FILE}: .*{message}"):
        tuned_setting(None, beside=tmp_path, warn=pytest.fail)


def test_a_tuning_of_this_machine_is_taken_from_its_place_or_from_where_it_is_said_to_be(tmp_path: Path) -> None:
    save_tuning(tuning(), tmp_path / TUNING_FILE)
    assert tuned_setting(None, beside=tmp_path, warn=pytest.fail) == SETTING
    assert tuned_setting(tmp_path / TUNING_FILE, beside=tmp_path / "elsewhere", warn=pytest.fail) == SETTING
    assert tuned_setting(None, beside=tmp_path / "elsewhere", warn=pytest.fail) is None
    with pytest.raises(ConfigError, match=r"nowhere\.toml: expected a tuning; make one with `pinrec tune`"):
        tuned_setting(tmp_path / "nowhere.toml", beside=tmp_path, warn=pytest.fail)


def test_a_tuning_of_another_machine_is_one_warning(tmp_path: Path) -> None:
    here = Machine.here()
    for other in (replace(here, cores=here.cores + 1), replace(here, processor="Z80")):
        save_tuning(tuning(machine=other), tmp_path / TUNING_FILE)
        said: list[str] = []
        assert tuned_setting(None, beside=tmp_path, warn=said.append) is None
        (sentence,) = said
        assert f"tuned for {other}, this is {here}: the defaults are used" in sentence


FIRST = Setting(threads=1)


def test_the_search_climbs_one_thing_at_a_time() -> None:
    """Two generators help and three do not; a delay helps; threads hurt. What is best is the sum of what helps."""

    def rate(setting: Setting) -> float:
        generators = min(setting.stage("generator").instances, 2)
        waits = setting.stage("generator").queue_delay_us == 500
        return 100.0 * generators * (1.2 if waits else 1.0) / setting.threads

    found = search(FIRST, 4, rate, seconds=1e9)
    assert found.complete
    assert found.setting.threads == 1
    assert found.setting.stage("generator") == StageTuning(instances=2, queue_delay_us=500)
    assert found.setting.instances == {"generator": 2}
    assert (found.first_rate, found.rate) == (100.0, 240.0)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("helps", [True, False])
def test_a_compiled_generator_is_kept_or_given_up_as_any_other_change(first: bool, helps: bool) -> None:
    def rate(setting: Setting) -> float:
        return 200.0 if setting.compiled == helps else 100.0

    found = search(replace(FIRST, compiled=first), 2, rate, seconds=1e9, program=True)
    assert (found.setting.compiled, found.rate) == (helps, 200.0)
    assert search(replace(FIRST, compiled=first), 2, rate, seconds=1e9).setting.compiled == first


def test_a_gain_that_is_small_or_that_does_not_come_twice_is_not_kept() -> None:
    asked: list[str] = []

    def lucky(setting: Setting) -> float:
        asked.append(str(setting))
        return 150.0 if setting != FIRST and asked.count(str(setting)) == 1 else 104.0 if setting != FIRST else 100.0

    assert search(FIRST, 2, lucky, seconds=1e9).setting == FIRST
    assert {asked.count(setting) for setting in asked if setting != str(FIRST)} == {2}
    assert search(FIRST, 2, lambda setting: 100.0 if setting == FIRST else 104.9, seconds=1e9).setting == FIRST


def test_a_machine_that_becomes_faster_does_not_make_a_setting_better() -> None:
    speed = iter(range(100, 10_000, 100))
    assert search(FIRST, 2, lambda _: min(float(next(speed)), 300.0), seconds=1e9).setting == FIRST


def test_the_search_ends_in_time_with_what_it_has() -> None:
    now = 0.0
    measured = 0

    def rate(setting: Setting) -> float:
        nonlocal now, measured
        now += 20.0
        measured += 1
        return 100.0 * setting.threads

    found = search(FIRST, 4, rate, seconds=90.0, clock=lambda: now)
    assert not found.complete
    assert now <= 90.0
    assert (measured, found.setting.threads) == (4, 2)  # one thread and two threads, in turns
    now = measured = 0
    assert search(FIRST, 4, rate, seconds=1.0, clock=lambda: now).setting == FIRST
    assert measured == 1


def test_a_setting_that_cannot_be_served_is_named_and_counts_as_one_that_serves_nothing() -> None:
    def rate(setting: Setting) -> float:
        if setting.threads == 2:
            raise ServerError("generator__r1 cannot be loaded")
        return 100.0 * min(setting.stage("generator").instances, 2)

    failures: list[str] = []
    found = search(FIRST, 2, rate, seconds=1e9, failed=lambda setting, error: failures.append(f"{setting}: {error}"))
    assert (found.complete, found.rate, found.setting.instances) == (True, 200.0, {"generator": 2})
    assert failures == ["2 threads: generator__r1 cannot be loaded"]


def test_a_setting_that_cannot_be_served_again_is_not_kept() -> None:
    asked: list[str] = []

    def once(setting: Setting) -> float:
        asked.append(str(setting))
        if len(asked) > 2:  # neither the first one nor the other
            raise ServerError("no memory")
        return 100.0 * len(asked)

    assert search(FIRST, 2, once, seconds=1e9).setting == FIRST
    assert asked[:4] == ["1 thread", "2 threads", "1 thread", "2 threads"]


def test_the_first_setting_has_to_be_served() -> None:
    def no(_: Setting) -> float:
        raise ServerError("no memory")

    with pytest.raises(ServerError, match="no memory"):
        search(FIRST, 2, no, seconds=1e9)


def test_what_is_better_is_told_at_once() -> None:
    told: list[tuple[int, float]] = []
    rates = {1: 100.0, 2: 150.0, 4: 300.0}
    found = search(
        FIRST, 4, lambda setting: rates[setting.threads], seconds=1e9,
        better=lambda found: told.append((found.setting.threads, found.rate)),
    )  # fmt: skip
    assert told == [(2, 150.0), (4, 300.0)]
    assert found.first_rate == 100.0


def test_a_setting_is_written_in_words() -> None:
    assert str(FIRST) == "1 thread"
    assert str(SETTING) == "2 threads, generator × 3 waiting 500 µs"
    assert str(replace(FIRST, compiled=False)) == "1 thread, generator uncompiled"
