"""How each figure was taken, in words: split, filter and tie rule. They are made from the settings that were used."""

from __future__ import annotations

from benchmarks.quality.results import LIST_MEASURES, StudyResult
from benchmarks.quality.study import study_names
from pinrec_core.config.sections import GenerationConfig, Merging

_TIES = "equal scores: of a counting baseline the earlier item first, of a model as Faiss orders them"


def run_again(study: str) -> str:
    """The command that makes a study's figures again. A study that is not shipped is named by its file."""
    name = study if study in study_names() else f"{study}.toml"
    return f"python -m benchmarks.quality run {name} && python -m benchmarks.quality report"


def log_filter(result: StudyResult) -> str:
    """Which part of the log was used: the filter of its publisher, and what the preparation left out."""
    dataset, log = result.dataset, result.log
    left_out = {
        "repeats of a user's last item and action": log.get("collapsed_events", 0),
        "unusable rows": log.get("quarantined_events", 0),
    }
    parts = [dataset["filter"]] if dataset["filter"] else []
    if any(left_out.values()):
        without = " and ".join(f"{number:,} {what}" for what, number in left_out.items() if number)
        parts.append(f"{dataset['events']:,} of the log's {log['rows_read']:,} rows, without {without}")
    else:
        parts.append(f"all {dataset['events']:,} rows of the log")
    if log.get("query_events"):
        parts.append(f"{log['query_events']:,} of them queries, which are context and no targets")
    return ", ".join(parts)


def protocol(result: StudyResult, evaluation: str) -> str:
    """One sentence for an evaluation, which is named as its users' results are: held_out, steps-16 …"""
    return f"{log_filter(result)}; {_protocol(result, evaluation)}"


_MERGED = {
    Merging.PER_OUTCOME: "each outcome's share chosen by its own embeddings in turn",
    Merging.MIXTURE: "lists merged as a mixture",
    Merging.QUOTA: "each embedding's quota of its best",
}


def _merged(result: StudyResult) -> str:
    """How the lists of the study's models became one, by what the models were judged with."""
    for run in result.runs.values():
        for seed in run["seeds"].values():
            for evaluation in seed["evaluations"].values():
                if generation := evaluation.get("generation"):
                    return _MERGED[Merging(generation["merging"])]
    return _MERGED[GenerationConfig().merging]


def _protocol(result: StudyResult, evaluation: str) -> str:
    kind, _, width = evaluation.partition("-")
    split, settings = result.plain["split"], result.plain["evaluation"]
    held_out = f"{split['evaluation_share']:.0%} of users held out by hash, a quarter for validation, the others judged"
    if settings["max_users"] is not None:
        held_out += f", at most {settings['max_users']:,}, by hash"
    judged = _users(result, kind)
    Z = settings["targets"]
    request = "the last item" if kind == "held_out_offline" else "the first target"
    last = (
        f"those with {Z} distinct items and an interaction before them ({judged}); the last {Z} are the targets; "
        f"surface and time of the request are those of {request}"
    )
    lists = f"exact search in the whole catalogue, seen items kept, k={settings['k']} per embedding"
    E = settings["embeddings"]
    served = (
        f"served: {settings['num_items']} items of the whole path: compression, the IVF-HNSW index at an nprobe of at "
        f"least .99 of exact recall (counting baselines: exact), {_merged(result)}, later steps discounted as "
        "calibrated, no item twice"
    )
    if kind == "leave_one_out":
        return (
            f"leave one out: all users ({judged}), the last item is the target; trained without the last "
            f"{split['held_out_last']} of every user; full ranking of the catalogue, seen items other than the target "
            "removed; an equal score counts as half a rank"
        )
    if kind == "cold":
        first = (
            f"those with {Z} distinct items ({judged}); the first {Z} are the targets, no history; surface and time of "
            "the request are those of the first target"
        )
        return f"{held_out}; {first}; {lists}, E={E}, at equal items k·E for one list; {served}; {_TIES}"
    if kind == "controllability":
        n = settings["outcome_embeddings"]
        return f"{held_out}; {last}; {lists}; all budget on one outcome, its {n} embeddings against as many; {_TIES}"
    if kind == "steps":
        total = settings["sweep_embeddings"]
        return f"{held_out}; {last}; {lists}; W={width} offsets per step, {total} embeddings per outcome; {_TIES}"
    if kind == "budget":
        return f"{held_out}; {last}; whole catalogue, seen items kept, E={E}; {served}; {_TIES}"
    if kind == "precision":
        return f"{held_out}; {last}; {lists}, E={E}; FP32 throughout, but for the features of search queries; {_TIES}"
    return f"{held_out}; {last}; {lists}, E={E}, at equal items k·E for one list; {served}; {_TIES}"


def _users(result: StudyResult, kind: str) -> str:
    """How many users were judged. It is the same for every run; an evaluation without lists has the held-out users."""
    counted = kind if kind in LIST_MEASURES else "held_out"
    judged = [figures["users"] for run in result.runs_with(counted) for figures in result.seeds(run, counted)]
    return f"{judged[0]:,} users" if judged else "none yet"
