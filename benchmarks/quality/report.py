"""The report: ``summary.json``, ``README.md`` and one page per study, from the JSON files of the studies alone.

What was tried where a goal is missed is written by hand in ``notes.toml`` beside the report and quoted as it stands.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from textwrap import indent
from typing import Any

from benchmarks.machine import ROOT
from benchmarks.quality import claims, pages
from benchmarks.quality.markdown import interval, number, over_seeds, table
from benchmarks.quality.protocols import protocol
from benchmarks.quality.results import StudyResult, load_all, rounded
from benchmarks.quality.study import study_names
from pinrec_core.errors import ConfigError, DataError, require

FOLDER = ROOT / "docs" / "results"
README = ROOT / "README.md"
SUMMARY_FILE = "summary.json"
NOTES_FILE = "notes.toml"
_SEEDS = 3  # of every headline; fewer are said beside it
_REACHED = {True: "yes", False: "**no**", None: ""}
_BEGIN, _END = "<!-- headlines -->", "<!-- end of headlines -->"
Measured = dict[str, list[tuple[claims.Claim, dict[str, Any]]]]
"""Claims and their rows in the summary, by group."""
_INTRODUCTION = """# Results

What the variants, the baselines and the serving path reach on public logs, each figure from a command that anyone who
has [the logs](../data.md#the-public-logs) can run again. This file and the pages behind it are generated; see [how to
run it again](#run-it-again).

- **UC**: the model's head is conditioned on nothing; **OC**: on the outcome asked for; **MT**: on the time offset;
  **{MT,OC}**: on both. **PinnerFormer**: one embedding per user, trained on all actions of the next 28 days.
  **SASRec**: item IDs and their order alone.
- **Unordered recall@k**: the share of a user's targets that any of the user's E embeddings ranks in its top k (eq. 6).
  *At equal retrieved items* one list is given its top k·E. **Served recall@100**: the share of targets among the 100
  items that the service would return. **Diversity**: distinct items over all places in all users' lists. **Coverage**:
  the share of the catalogue in any list. **Compression**: embeddings generated for one that is kept.
- **value**, **baseline**: means over the seeds; no seed is picked. In brackets the least and the largest of the seeds.
  **ratio** is value over baseline.
- **95% interval** of the ratio: users are resampled, the same ones for both sides, with the seeds pooled: it says what
  other users would have given, not what other seeds would. A published baseline is taken as exact. Diversity and
  latency have none: users drawn twice bring no new items, and a latency is no mean over users. A dash for a bound:
  there is none.
- **goal** is judged on the ratio where it ends in x, else on the value. *reached* looks at the figure itself; *open*
  beside it: the interval spans the goal, other users could have decided otherwise. That a budget lowers the others
  counts only where it lifts its own outcome. **targets**: how many of them the figure is made of.
- **Who is judged**: users that no model was trained on. A quarter of the users held out is for validation: merging
  threshold and step discount are calibrated on them, losses after each epoch are theirs, and they are not judged. The
  studies' settings were chosen on an earlier, independent draw of held-out users; by chance a share of those judged
  here, as large as the share held out, was among them. `globo`'s batch size and the rate of its ID tables were chosen
  on the users for validation, after a first study with others, and two seeds of a second with that batch size, had
  been judged: the first missed the goal for users without a history, the second's two seeds fell on either side. Leave
  one out judges the last item of every user, which no training saw; its settings were chosen by the item before that,
  but figures of the last items were known when MovieLens-1M's number of epochs was set, after the training loss, when
  four layers were tried there, and when Amazon's headline went from two stages to one.
- **The same budget**: all variants of a log have the same data, epochs and settings, chosen for the generative ones. A
  multi-token window has more targets, so that {MT,OC} trains up to twice as long; for `yelp` [the others at as many
  minutes](yelp.md#as-many-minutes-instead-of-epochs) stand beside. PinnerFormer and SASRec were not tuned on their own,
  but for the rate of their tables on `trivago` and Amazon.
- **Time**: users are held out, not a period. A model that knows times has seen what *other* users did before and after.
  All but SASRec and the counting baselines read the times of the history. Time and surface of the request itself are
  known to the steps after the first, and to the first where there is no history, but not to PinnerFormer: in rows
  *ahead of the request* nobody knows them.
- **Release**: each page says with which options `pinrec release` serves what it judges.
"""
_RUN_AGAIN = """## Run it again

```
python -m benchmarks.quality run ml100k   # prepares the log, trains what is missing, evaluates it; safe to interrupt
python -m benchmarks.quality report       # this folder, from benchmarks/results/quality/*.json alone
make results                              # both, for every study
```

What is trained and how it is judged stands in `benchmarks/quality/studies/*.toml`.
"""


def write_report(results: Path, out: Path, readme: Path | None = None) -> list[dict[str, Any]]:
    """Write everything to ``out``, the headlines into ``readme``, and return the rows of the summary.

    Raises ``DataError`` without any results, or where ``readme`` has no place for the headlines.
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
        for plot in out.glob(f"{study.name}-*.svg"):  # a run or an ablation may be gone
            plot.unlink()
        (out / f"{study.name}.md").write_text(pages.page(study, out), "utf-8")
    (out / "README.md").write_text(_readme(studies, measured, missing, notes), "utf-8")
    return rows


def with_headlines(readme: str, measured: Measured) -> str:
    """The text of a README with the headlines, reached or not, between its two marks.

    Raises ``DataError`` without the marks.
    """
    before, begin, rest = readme.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not end:
        raise DataError(f"README: expected {_BEGIN!r} and {_END!r}, between which the headlines go")
    by_claim: dict[tuple[str, ...], list[str]] = {}
    for of_group in measured.values():
        for claim, row in of_group:
            if claim.headline:
                key = (row["claim"], row["baseline"], claim.metric, row["goal"] or "")
                by_claim.setdefault(key, []).append(_headline(claim, row))
    cells = [[*key, ", ".join(figures)] for key, figures in by_claim.items()]
    header = ["claim", "against", "metric", "goal", "by log"]
    return before + begin + "\n\n" + "\n".join(table(header, cells, text_columns=5)) + "\n" + end + after


def _headline(claim: claims.Claim, row: dict[str, Any]) -> str:
    """What one log says: the ratio, or the value where the goal is about it, and whether that reaches the goal."""
    of_value = claim.goal is not None and claim.goal.of == "value"
    figure = number(row["value"]) if of_value else f"{number(row['ratio'], 3)}x"
    remarks = [
        *(["**missed**"] if row["reached"] is False else []),
        *(["open"] if row["certain"] is False else []),
        *([f"seeds: {row['seeds']}"] if row["seeds"] < _SEEDS else []),
    ]
    return f"{row['dataset']} {figure}" + (f" ({', '.join(remarks)})" if remarks else "")


def _measure(studies: Sequence[StudyResult]) -> tuple[Measured, dict[str, list[str]]]:
    """Claims and their rows by group, in their order, and what is not measured yet."""
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
    goals = [row["reached"] for rows in measured.values() for _, row in rows if row["reached"] is not None]
    lines = [_INTRODUCTION, f"{sum(goals)} of the {len(goals)} goals measured are reached{_left(missing)}.", ""]
    for group, rows in measured.items():
        if rows:
            lines += [
                f"## {claims.TITLES[group]}",
                "",
                *_claims_table([row for _, row in rows]),
                *_note(notes.get(group)),
            ]
    lines += ["## All runs, ablations and sweeps", ""]
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
            f"{row['baseline']}: {over_seeds(row['baseline_value'], row['baseline_by_seed'])}", number(row["ratio"], 3),
            interval(row["ci95"], 3), str(row["seeds"]), "–" if row["targets"] is None else f"{row['targets']:,}",
            row["goal"] or "", _verdict(row),
        ]
        for row in rows
    ]  # fmt: skip
    header = ["claim", "dataset", "metric", "value", "baseline", "ratio", "95% interval", "seeds", "targets", "goal"]
    return table([*header, "reached"], cells, text_columns=3)


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
    """Hand-written text by group of claims or study. Raises ``ConfigError`` for one that is not there."""
    if not path.is_file():
        return {}
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: expected TOML, {error}") from error
    known = [*claims.GROUPS, *study_names()]
    unknown = sorted(set(raw) - set(known))
    require(not unknown, f"{path} keys", unknown, f"only {known}", error=ConfigError)
    return raw
