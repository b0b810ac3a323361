"""One page of the report per study, as Markdown and SVG: runs, evaluations, ablations, sweeps and trainings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.quality import plots, steering, sweeps
from benchmarks.quality.markdown import interval, number, sentence, slug, table
from benchmarks.quality.measures import Measure
from benchmarks.quality.protocols import log_filter, protocol, run_again
from benchmarks.quality.results import LIST_MEASURES, StudyResult, ablation_evaluation
from pinrec_core.config.sections import Variant

MOST_SURFACES = 8
_ABLATED = {
    "hit": "recall", "hit_equal_items": "recall at equal items", "served_hit": "served recall", "ndcg": "NDCG",
}  # fmt: skip
_METRIC_TITLES = {
    "hit": "recall@{k}", "hit_equal_items": "at equal items", "served_hit": "served recall@{n}",
    "diversity_equal_items": "diversity at equal items", "catalogue_coverage_equal_items": "coverage at equal items",
    "compression_ratio": "compression",
}  # fmt: skip


def page(result: StudyResult, folder: Path) -> str:
    """The page's text; its plots are written to ``folder``."""
    return "\n".join(["\n".join(part) for part in _parts(result, folder)]) + "\n"


def _parts(result: StudyResult, folder: Path) -> Iterator[list[str]]:
    yield _heading(result)
    for kind, title in (
        ("held_out", "Held-out users"),
        ("held_out_offline", "Held-out users, embeddings made ahead of the request"),
        ("cold", "Users without a history"),
    ):
        yield from _lists(result, folder, kind, title)
    yield from _leave_one_out(result, folder)
    yield from _by_group(result, "by_outcome", "Recall by outcome")
    yield from _by_group(result, "by_surface", "Recall by surface")
    yield from sweeps.controllability(result, folder)
    yield from sweeps.steps(result, folder)
    yield from steering.link(result)
    yield from sweeps.precision(result)
    yield from _ablations(result, folder)
    yield _trainings(result)


def _heading(result: StudyResult) -> list[str]:
    dataset = result.dataset
    outcomes = ", ".join(f"{name} {share:.0%}" for name, share in dataset["outcomes"].items())
    return [
        f"# {result.plain['title']}", "",
        f"{dataset['users']:,} users, {dataset['items']:,} items; {log_filter(result)}; outcomes: {outcomes}.",
        "", f"Run again: `{run_again(result.name)}`. "
        "Figures are means over the seeds; brackets hold 95% confidence intervals from resampling users, with the "
        "seeds pooled: other seeds are not part of them.", "", *_not_run(result), *_release(result),
    ]  # fmt: skip


def _not_run(result: StudyResult) -> list[str]:
    missing = result.plain["not_run"]
    return [f"Not run yet: {'; '.join(missing)}.", ""] if missing else []


def _release(result: StudyResult) -> list[str]:
    """The options with which the models judged here are released. The calibration is made on the same users."""
    if not result.runs_with("held_out"):
        return []
    settings = result.plain["evaluation"]
    options = f"--embeddings {settings['embeddings']} --targets {settings['targets']}"
    offsets = ",".join(map(str, settings["offsets"]))
    more = f", for MT and {{MT,OC}} with `--offsets {offsets}`" if len(settings["offsets"]) > 1 else ""
    return [f"What is judged here is served by a release made with `pinrec release RUN {options}`{more}.", ""]


def _lists(result: StudyResult, folder: Path, kind: str, title: str) -> Iterator[list[str]]:
    """Recall, diversity and coverage of every run that took this held-out evaluation."""
    runs = result.runs_with(kind)
    if not runs:
        return
    settings = result.plain["evaluation"]
    names = {key: text.format(k=settings["k"], n=settings["num_items"]) for key, text in _METRIC_TITLES.items()}
    rows, drawn = [], {}
    for run in runs:
        seeds = result.seeds(run, kind)
        recalls = [result.figure(Measure(run=run, evaluation=kind, name=name)) for name in LIST_MEASURES[kind]]
        drawn[result.runs[run]["title"]] = recalls[-1] or {}
        cells = [f"{number(r['value'])} {interval(r['ci95'])}" if r else "–" for r in recalls]
        plain = [number(fmean(s[name] for s in seeds), 3) for name in list(_METRIC_TITLES)[3:]]
        cells = [_generated(result, run, seeds[0]), *cells, *plain, _step_discounts(seeds)]
        rows.append([result.runs[run]["title"], str(len(seeds)), *cells])
    yield [f"## {title}", "", f"{sentence(protocol(result, kind))}", ""]
    yield table(["run", "seeds", "E = steps × outcomes × offsets", *names.values(), "step discount"], rows)
    plot = f"{result.name}-{kind.replace('_', '-')}.svg"
    plots.save(plots.bars(drawn, f"{names['served_hit']}, 95% interval"), folder / plot)
    yield [f"![{title}: served recall by run]({plot})", ""]


def _generated(result: StudyResult, run: str, figures: dict[str, Any]) -> str:
    """A run's number of embeddings per user, and the factors whose product it is."""
    plain, E = result.runs[run], figures["embeddings"]
    if plain["variant"] is None or E == 1:
        return str(E)
    variant = Variant(plain["variant"])
    outcomes = len(result.outcomes) if variant.outcome_conditioned else 1
    offsets = len(result.plain["evaluation"]["offsets"]) if variant.multi_token else 1
    return f"{E} = {E // outcomes // offsets} × {outcomes} × {offsets}"


def _step_discounts(seeds: Sequence[dict[str, Any]]) -> str:
    """The calibrated step discount of every seed; a dash for a run that has no later steps."""
    settings = [figures.get("generation") for figures in seeds]
    return ", ".join(f"{found['step_discount']:g}" for found in settings if found and found["steps"] > 1) or "–"


def _leave_one_out(result: StudyResult, folder: Path) -> Iterator[list[str]]:
    runs = result.runs_with("leave_one_out")
    if not runs:
        return
    rows, drawn = [], {}
    for run in runs:
        figures = [result.figure(Measure(run=run, evaluation="leave_one_out", name=n)) for n in ("hit", "ndcg")]
        drawn[result.runs[run]["title"]] = figures[1] or {}
        cells = [f"{number(f['value'])} {interval(f['ci95'])}" if f else "–" for f in figures]
        rows.append([result.runs[run]["title"], str(len(result.seeds(run, "leave_one_out"))), *cells])
    k = result.plain["evaluation"]["k"]
    yield ["## Leave one out", "", sentence(protocol(result, "leave_one_out")), ""]
    yield table(["run", "seeds", f"HR@{k}", f"NDCG@{k}"], rows)
    plot = f"{result.name}-leave-one-out.svg"
    plots.save(plots.bars(drawn, f"NDCG@{k}, 95% interval"), folder / plot)
    yield [f"![NDCG by run]({plot})", ""]


def _by_group(result: StudyResult, group: str, title: str) -> Iterator[list[str]]:
    """Unordered recall by outcome or surface of the target, for the most frequent ones."""
    runs = result.runs_with("held_out")
    counts: dict[str, int] = {}
    for run in runs:
        for name, entry in result.seeds(run, "held_out")[0][group].items():
            counts[name] = entry["targets"]
    names = sorted(counts, key=lambda name: (-counts[name], name))[:MOST_SURFACES]
    if len(names) < 2:
        return
    rows = [["targets", *(f"{counts[name]:,}" for name in names)]]
    for run in runs:
        seeds = result.seeds(run, "held_out")
        recall = [fmean(seed[group][name]["unordered_recall"] for seed in seeds) for name in names]
        rows.append([result.runs[run]["title"], *(number(value) for value in recall)])
    more = f"The {len(names)} most frequent of {len(counts)}. " if len(counts) > len(names) else ""
    yield [f"## {title}", "", f"{more}Held-out users, recall@{result.plain['evaluation']['k']} per embedding.", ""]
    yield table(["run", *(name or "(none)" for name in names)], rows)


def _ablations(result: StudyResult, folder: Path) -> Iterator[list[str]]:
    for ablation in result.plain["ablations"]:
        reference = ablation["reference"]
        trained = [run for run in ablation["runs"] if run in result.runs]
        kind = ablation_evaluation(_first_evaluations(result, reference))
        if not trained or kind is None:
            continue
        yield [f"## {ablation['title']}", "", *([ablation["note"], ""] if ablation["note"] else [])]
        yield from _ablation_table(result, reference, trained, kind)
        measure = LIST_MEASURES[kind][0]
        drawn = {}
        for run in (reference, *trained):
            found = result.figure(Measure(run=run, evaluation=kind, name=measure))
            if found:
                drawn[result.runs[run]["title"]] = found
        plot = f"{result.name}-{slug(ablation['name'])}.svg"
        plots.save(plots.bars(drawn, "recall, 95% interval"), folder / plot)
        yield [f"![{ablation['title']}]({plot})", ""]
        if ablation["loss_curves"]:
            curves = {result.runs[run]["title"]: _epochs(result, run) for run in (reference, *trained)}
            plot = f"{result.name}-{slug(ablation['name'])}-epochs.svg"
            plots.save(plots.loss_by_epoch({run: epochs for run, epochs in curves.items() if epochs}), folder / plot)
            yield [f"![Loss by epoch]({plot})", "", "Loss by epoch, first seed.", ""]


def _ablation_table(result: StudyResult, reference: str, runs: Sequence[str], kind: str) -> Iterator[list[str]]:
    rows = []
    for run in (reference, *runs):
        cells = []
        for name in LIST_MEASURES[kind]:
            of, against = (Measure(run=r, evaluation=kind, name=name) for r in (run, reference))
            found, compared = result.figure(of), result.comparison(of, against)
            ratio = ""
            if compared and run != reference:
                ratio = f" ({number(compared['ratio'], 3)}x {interval(compared['ci95'], 3)})"
            cells.append(f"{number(found['value'])}{ratio}" if found else "–")
        rows.append([result.runs[run]["title"], str(len(result.seeds(run, kind))), *cells])
    yield table(["run", "seeds", *(_ABLATED[name] for name in LIST_MEASURES[kind])], rows)


def _trainings(result: StudyResult) -> list[str]:
    models = [run for run in result.runs.values() if run["variant"]]
    shared = [s for s in (models[0]["settings"] if models else []) if all(s in run["settings"] for run in models)]
    rows = []
    for plain in result.runs.values():
        trained = [seed["training"] for seed in plain["seeds"].values() if seed["training"]]
        if not trained:
            continue
        epochs = [epoch for training in trained for epoch in training["epochs"]]
        last = [training["epochs"][-1]["held_out_loss"] for training in trained]
        machines = ", ".join(sorted({seed["machine"] for seed in plain["seeds"].values()}))
        commits = ", ".join(sorted({f"`{commit}`" for seed in plain["seeds"].values() for commit in seed["commits"]}))
        minutes = f"{_minutes(plain):.1f}"
        if plain["id_tables"]:
            minutes = f"{_minutes(result.runs[plain['id_tables']]):.1f} + {minutes}"
        rows.append(
            [
                plain["title"], f"`{plain['variant']}`", str(plain["epochs"]), str(trained[0]["steps"]),
                f"{fmean(_interactions(t) / t['steps'] for t in trained):,.0f}",
                number(fmean(t["final_loss"] for t in trained), 3),
                number(fmean(last), 3) if all(loss is not None for loss in last) else "–",
                f"{fmean(epoch['interactions_per_second'] for epoch in epochs):,.0f}",
                minutes, machines, commits, _settings(s for s in plain["settings"] if s not in shared),
            ]
        )  # fmt: skip
    header = [
        "run", "variant", "epochs", "steps", "interactions/step", "loss", "held-out loss", "interactions/s", "minutes",
        "machine", "code",
    ]  # fmt: skip
    presets = ", ".join(sorted({f"`{run['preset']}`" for run in models}))
    return [
        "## Trainings", "", f"Preset {presets} with {_settings(shared) or 'nothing changed'}; the table has the rest. "
        "In-batch negatives are drawn from the interactions of a step, so there are no more than these. Minutes of an "
        "ID pre-training come before the plus. Code: the commits that trained and judged; with `+changes`, not as "
        "committed.", "", *table([*header, "settings"], rows),
    ]  # fmt: skip


def _interactions(training: dict[str, Any]) -> float:
    return sum(epoch["interactions_per_second"] * epoch["seconds"] for epoch in training["epochs"])


def _minutes(run: dict[str, Any]) -> float:
    """How long training takes, as the mean over the seeds."""
    trained = [seed["training"] for seed in run["seeds"].values()]
    return fmean(sum(epoch["seconds"] for epoch in training["epochs"]) for training in trained) / 60


def _settings(settings: Iterable[str]) -> str:
    return ", ".join(f"`{setting}`" for setting in settings)


def _first_evaluations(result: StudyResult, run: str) -> list[str]:
    seeds = list(result.runs.get(run, {}).get("seeds", {}).values())
    return list(seeds[0]["evaluations"]) if seeds else []


def _epochs(result: StudyResult, run: str) -> list[dict[str, Any]]:
    seeds = list(result.runs[run]["seeds"].values()) if run in result.runs else []
    return seeds[0]["training"].get("epochs", []) if seeds else []
