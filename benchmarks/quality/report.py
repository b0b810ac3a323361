"""The report: ``summary.json``, ``README.md``, a page per study and one about steering, made of JSON files alone.

The reasons for missed goals, and what was tried, are written by hand in ``notes.toml`` beside the report, which quotes
them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from textwrap import indent
from typing import Any

from benchmarks.machine import ROOT
from benchmarks.quality import claims, pages, steering
from benchmarks.quality.goals import AnyClaim
from benchmarks.quality.markdown import interval, number, over_seeds, table
from benchmarks.quality.protocols import protocol
from benchmarks.quality.results import StudyResult, load_all, rounded
from benchmarks.quality.study import study_names
from pinrec_core.errors import ConfigError, DataError, require
from pinrec_core.validation import read_toml

FOLDER = ROOT / "docs" / "results"
README = ROOT / "README.md"
SUMMARY_FILE = "summary.json"
NOTES_FILE = "notes.toml"
_SEEDS = 3  # that a figure of the overview is expected to have; fewer are remarked on
_REACHED = {True: "yes", False: "**no**", None: ""}
_BEGIN, _END = "<!-- headlines -->", "<!-- end of headlines -->"
Measured = dict[str, list[tuple[AnyClaim, dict[str, Any]]]]
"""Claims and their rows of the summary, by group."""
_TITLE = """# Results

This page says what the variants, the baselines and the serving path reach on public logs. Anyone who has [the
logs](../data.md#the-public-logs) can make every figure again [with one command](#run-it-again). This file and the
pages it links to are generated.
"""
_OVERVIEW = """## Overview

*By log* is the ratio to what the claim is against, or the value itself where the goal has no x. A goal is reached
unless the row says *missed*; *open* means that the interval over users spans the goal. A row without a goal stands for
comparison.
"""
_HOW_TO_READ = """## How to read the tables

- **Variants**: the model's head is conditioned on nothing in **UC**, on the outcome asked for in **OC**, on the time
  offset in **MT**, and on both in **{MT,OC}**. **PinnerFormer** has one embedding per user, trained on all actions of
  the next 28 days. **SASRec** reads item IDs and their order alone.
- **Unordered recall@k** is the share of a user's targets that any of the user's E embeddings ranks in its top k
  (eq. 6). *At equal retrieved items*, a baseline of one list is given its top k·E; *at equal distinct items*, its
  list is cut to as many items as the other's lists hold distinct ones. **Served recall@100** is the share of targets
  among the 100 items that the service would return. **Diversity** is the number of distinct items over the number of
  places in all users' lists, **coverage** the share of the catalogue that is in any list, **compression** the number
  of generated embeddings per kept one.
- **value** and **baseline** are means over the seeds; no seed is picked. The brackets hold the smallest and the
  largest seed. **ratio** is value over baseline.
- **95% interval** is that of the ratio. Users are resampled, the same ones for both sides, with the seeds pooled: it
  says what other users would have given, not what other seeds would. A published baseline is taken as exact.
  Diversity and latency have no interval, because users drawn twice bring no new items and a latency is no mean over
  users. A dash stands for a bound that does not exist.
- **goal** is judged on the ratio where it ends in x, else on the value. *reached* is about the figure itself; *open*
  beside it means that the interval spans the goal, so that other users could have decided otherwise. That a budget
  lowers the other outcomes counts only where its own reaches its goal. **targets** is the number of targets behind the
  figure. The budget on an outcome with fewer than 100 targets has no goals, because so few say nothing of ratios this
  close to 1. {MT,OC} has no goal over OC where the log's times are days.
- A figure that is made of others has no baseline and no interval. The largest distance and the smallest rise are those
  of any seed. The share of the outcomes is taken of their ratios with the seeds pooled, so that it may lie outside of
  what single seeds give. What is counted as delivered is explained on the page about [steering](steering.md).
- **Who is judged**: users that no model was trained on. A quarter of the held-out users is for validation: the merge
  threshold and the step discount are calibrated on them, the loss after each epoch is theirs, and they are not
  judged. The studies' settings were chosen on an earlier, independent draw of held-out users; by chance a share of
  those judged here, as large as the share held out, was among them. The batch size of `globo` and the learning rate
  of its ID tables were chosen on the users for validation, but only after a first study with other settings, and two
  seeds of a second one with that batch size, had been judged: the first missed the goal for users without a history,
  and the two seeds of the second fell on either side of it. Leave one out judges the last item of every user, which
  no training saw. Its settings were chosen by the item before that, but figures of the last items were known at three
  decisions: when the number of epochs of MovieLens-1M was set (by the training loss), when four layers were tried
  there, and when the headline of Amazon changed from two stages to one.
- **The same budget**: all variants of a log have the same data, epochs and settings, which were chosen for the
  generative ones. A multi-token window has more targets, so that {MT,OC} trains up to twice as long; for `yelp` there
  is a comparison [at as many minutes](yelp.md#as-many-minutes-instead-of-epochs). PinnerFormer and SASRec were not
  tuned on their own, except for the learning rate of their tables on `trivago` and Amazon.
- **Time**: users are held out, not a period, so a model that reads times has seen what *other* users did before and
  after. All but SASRec and the counting baselines read the times of the history. The time and surface of the request
  itself are known to the steps after the first, and to the first step where there is no history, but not to
  PinnerFormer. In rows *ahead of the request* no model knows them.
- **Release**: each page gives the options with which `pinrec release` serves what is judged there.
"""
_STEERING = "what budgets between two outcomes ask for, deliver and find, on every log that has them"
_RUN_AGAIN = """## Run it again

```
python -m benchmarks.quality run ml100k   # prepares the log, trains what is missing, evaluates it; safe to interrupt
python -m benchmarks.quality report       # this folder, from benchmarks/results/quality/*.json alone
make results                              # both, for every study
```

`benchmarks/quality/studies/*.toml` says what is trained and how it is judged.
"""


def write_report(results: Path, out: Path, readme: Path | None = None) -> list[dict[str, Any]]:
    """Write the report to ``out`` and the headlines into ``readme``, and return the rows of the summary.

    Raises ``DataError`` where there are no results, or where ``readme`` has no place for the headlines.
    """
    studies = load_all(results)
    if not studies:
        raise DataError(f"{results}: expected results of a study; make them with `python -m benchmarks.quality run`")
    notes = _notes(out / NOTES_FILE)
    out.mkdir(parents=True, exist_ok=True)
    measured, missing = _measure(studies)
    rows = [row for of_group in measured.values() for _, row in of_group]
    if readme is not None:
        readme.write_text(with_headlines(readme.read_text("utf-8"), measured), "utf-8")
    text = json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
    (out / SUMMARY_FILE).write_text(text, "utf-8")
    for study in studies:
        for plot in out.glob(f"{study.name}-*.svg"):  # the run or ablation it shows may no longer exist
            plot.unlink()
        (out / f"{study.name}.md").write_text(pages.page(study, out), "utf-8")
    for plot in out.glob(steering.PLOTS):
        plot.unlink()
    (out / steering.FILE).write_text(steering.page(studies, out), "utf-8")
    (out / "README.md").write_text(_readme(studies, measured, missing, notes), "utf-8")
    return rows


def with_headlines(readme: str, measured: Measured) -> str:
    """The text of a README with a table of the measured ``claims.HEADLINES`` between its two marks.

    Raises ``DataError`` without the marks.
    """
    before, begin, rest = readme.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not end:
        raise DataError(f"README: expected {_BEGIN!r} and {_END!r}, between which the headlines go")
    overview = {(claim, metric): (goal, by_log) for claim, _, metric, goal, by_log in _overview(measured)}
    cells = [
        [headline.words, *overview[headline.claim, headline.metric]]
        for headline in claims.HEADLINES
        if (headline.claim, headline.metric) in overview
    ]
    reached, judged = _reached(measured)
    lines = [
        *table(["figure", "goal", "by log"], cells, text_columns=3),
        f"In all, {reached} of the {judged} goals measured are reached.",
    ]
    return before + begin + "\n\n" + "\n".join(lines) + "\n\n" + end + after


def _overview(measured: Measured) -> list[list[str]]:
    """Claim, against, metric, goal and figures by log: one row for all logs that a claim was measured on."""
    by_claim: dict[tuple[str, ...], list[str]] = {}
    for of_group in measured.values():
        for claim, row in of_group:
            if claim.overview:
                key = (row["claim"], row["baseline"], claim.metric, row["goal"] or "")
                by_claim.setdefault(key, []).append(_of_log(claim, row))
    return [[*key, ", ".join(figures)] for key, figures in by_claim.items()]


def _of_log(claim: AnyClaim, row: dict[str, Any]) -> str:
    """What one log says: the ratio, or the value where the goal is about it, and whether that reaches the goal."""
    of_value = claim.goal is not None and claim.goal.of == "value"
    figure = number(row["value"]) if of_value else f"{number(row['ratio'], 3)}x"
    remarks = [
        *(["**missed**"] if row["reached"] is False else []),
        *(["open"] if row["certain"] is False else []),
        *([f"seeds: {row['seeds']}"] if row["seeds"] < _SEEDS else []),
    ]
    return f"{row['dataset']} {figure}" + (f" ({', '.join(remarks)})" if remarks else "")


def _reached(measured: Measured) -> tuple[int, int]:
    """The number of goals that are reached, and of all that were measured."""
    goals = [row["reached"] for rows in measured.values() for _, row in rows if row["reached"] is not None]
    return sum(goals), len(goals)


def _measure(studies: Sequence[StudyResult]) -> tuple[Measured, dict[str, list[str]]]:
    """The measured claims with their rows, by group, and by study the names of those not measured yet."""
    measured: Measured = {group: [] for group in claims.GROUPS}
    missing: dict[str, list[str]] = {}
    for study in studies:
        for claim in claims.claims_of(study.name, study.outcomes):
            row = claim.row(study)
            if row is None:
                missing.setdefault(study.name, []).append(f"{claim.claim} ({claim.metric})")
            else:
                measured[claim.group].append((claim, rounded(row)))
    for name in sorted(set(study_names()) - {study.name for study in studies}):
        wanted = [f"{claim.claim} ({claim.metric})" for claim in claims.claims_of(name, ())]
        missing |= {name: wanted} if wanted else {}
    return measured, missing


def _readme(
    studies: Sequence[StudyResult], measured: Measured, missing: dict[str, list[str]], notes: dict[str, str]
) -> str:
    reached, judged = _reached(measured)
    overview = table(["claim", "against", "metric", "goal", "by log"], _overview(measured), text_columns=5)
    lines = [
        *[_TITLE, f"{reached} of the {judged} goals measured are reached{_left(missing)}.", ""],
        *[_OVERVIEW, *overview, _HOW_TO_READ],
    ]
    for group, rows in measured.items():
        if rows:
            lines += [
                f"## {claims.TITLES[group]}",
                "",
                *_claims_table([row for _, row in rows]),
                *_note(notes.get(group)),
            ]
    lines += ["## All runs, ablations and sweeps", "", f"- [Steering]({steering.FILE}): {_STEERING}"]
    for study in studies:
        dataset = study.dataset
        lines.append(
            f"- [{study.plain['title']}]({study.name}.md): {dataset['users']:,} users, {dataset['items']:,} items, "
            f"{dataset['events']:,} events"
        )
        if study.name in notes:
            lines.append(indent(notes[study.name].strip(), "  "))
    lines += ["", *_missing(missing), *_protocols(studies), *_machines(studies), _RUN_AGAIN]
    return "\n".join(lines)


def _claims_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    cells = [
        [
            row["claim"], f"[{row['dataset']}]({row['dataset']}.md)", row["metric"],
            over_seeds(row["value"], row["by_seed"]),
            _baseline(row), number(row["ratio"], 3),
            interval(row["ci95"], 3), str(row["seeds"]), "–" if row["targets"] is None else f"{row['targets']:,}",
            row["goal"] or "", _verdict(row),
        ]
        for row in rows
    ]  # fmt: skip
    header = ["claim", "dataset", "metric", "value", "baseline", "ratio", "95% interval", "seeds", "targets", "goal"]
    return table([*header, "reached"], cells, text_columns=3)


def _baseline(row: dict[str, Any]) -> str:
    if row["baseline_value"] is None:
        return "–"
    return f"{row['baseline']}: {over_seeds(row['baseline_value'], row['baseline_by_seed'])}"


def _verdict(row: dict[str, Any]) -> str:
    return _REACHED[row["reached"]] + (", open" if row["certain"] is False else "")


def _note(note: str | None) -> list[str]:
    return [] if note is None else [note.strip(), ""]


def _left(missing: dict[str, list[str]]) -> str:
    return f"; {sum(map(len, missing.values()))} figures are [not measured yet](#not-measured-yet)" if missing else ""


def _missing(missing: dict[str, list[str]]) -> list[str]:
    if not missing:
        return []
    lines = ["## Not measured yet", ""]
    for study, names in missing.items():
        lines.append(f"- {study}: {'; '.join(names)}")
    return [*lines, ""]


def _protocols(studies: Sequence[StudyResult]) -> list[str]:
    lines = ["## Protocols", ""]
    for study in studies:
        kinds = {kind for run in study.runs.values() for seed in run["seeds"].values() for kind in seed["evaluations"]}
        for kind in sorted(kinds):
            width = f"-{max(study.plain['evaluation']['offsets_per_step'])}" if kind == "steps" else ""
            lines.append(f"- **{study.name}, {kind.replace('_', ' ')}**: {protocol(study, kind + width)}.")
    return [*lines, ""]


def _machines(studies: Sequence[StudyResult]) -> list[str]:
    cards = {slug: card for study in studies for slug, card in study.plain["machines"].items()}
    lines = ["## Machines", ""]
    for slug, card in sorted(cards.items()):
        gpu = f", {card['gpu']}" if card["gpu"] else ""
        versions = ", ".join(f"{name} {version}" for name, version in card["versions"].items())
        lines.append(f"- `{slug}`: {card['cpu']}, {card['cores']} cores, {card['memory_gib']} GiB{gpu}; {versions}")
    return [*lines, ""]


def _notes(path: Path) -> dict[str, str]:
    """The hand-written notes, by group of claims or study. Raises ``ConfigError`` for a name that is neither."""
    if not path.is_file():
        return {}
    raw = read_toml(path, error=ConfigError, what="the notes of a report")
    known = [*claims.GROUPS, *study_names()]
    unknown = sorted(set(raw) - set(known))
    require(not unknown, f"{path} keys", unknown, f"only {known}", error=ConfigError)
    return raw
