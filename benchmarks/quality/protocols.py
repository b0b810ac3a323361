"""How each figure was taken, in words: split, filter and tie rule. Made from the settings that were used."""

from __future__ import annotations

from benchmarks.quality.results import StudyResult

_TIES = "equal scores: of a counting baseline the earlier item first, of a model as Faiss orders them"


def protocol(result: StudyResult, evaluation: str) -> str:
    """One sentence for an evaluation as users' results are named: held_out, steps-16 …"""
    kind, _, width = evaluation.partition("-")
    split, settings = result.plain["split"], result.plain["evaluation"]
    users = "all of them" if settings["max_users"] is None else f"at most {settings['max_users']:,}"
    held_out = f"{split['evaluation_share']:.0%} of users held out by hash ({users})"
    last = f"the last {settings['targets']} distinct items are the targets"
    lists = f"exact search in the whole catalogue, seen items kept, k={settings['k']} per embedding"
    E = settings["embeddings"]
    served = f"served: the {settings['num_items']} items that compression, quotas and de-duplication leave"
    if kind == "leave_one_out":
        return (
            f"leave one out: all users, the last item is the target; trained without the last {split['held_out_last']} "
            "of every user; full ranking of the catalogue, seen items removed; an equal score counts as half a rank"
        )
    if kind == "cold":
        first = f"the first {settings['targets']} distinct items are the targets, no history"
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
        return f"{held_out}; {last}; {lists}, E={E}; {_TIES}"
    return f"{held_out}; {last}; {lists}, E={E}, at equal items k·E for one list; {served}; {_TIES}"
