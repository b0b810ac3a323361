"""A small study and how to run it here."""

from __future__ import annotations

from pathlib import Path

from benchmarks.quality.__main__ import run_study
from benchmarks.quality.study import load_study

TRAINING = """
[training]
preset = "tiny"
epochs = {epochs}
settings = [
    "model.layers=1", "model.hidden_width=16", "model.item_width=8", "model.id_width=8", "model.id_rows=256",
    "model.max_history=24", "model.max_steps=12", "objective.in_batch_negatives=32", "objective.random_negatives=32",
    "objective.windows_per_step=128", "training.learning_rate=4e-3",
]
"""
# It has the name of a study that claims are about, so that its figures become rows of these claims.
STUDY = (
    """
title = "A walk through neighbouring items"
dataset = "walk"

[split]
evaluation_share = 0.3
held_out_last = 1
"""
    + TRAINING.format(epochs=1)
    + """
[evaluation]
targets = 4
k = 5
embeddings = 6
offsets = [1, 2]
outcome_embeddings = 2
offsets_per_step = [1, 2, 4]
sweep_embeddings = 4
latency_requests = 2
budget = ["click", "hide"]
budget_shares = [0.0, 0.5, 1.0]
max_users = 30
num_items = 20

[[runs]]
name = "uc"
title = "UC"
variant = "uc"
seeds = [0, 1]
evaluations = ["held_out", "cold", "held_out_offline", "controllability", "leave_one_out"]

[[runs]]
name = "oc"
title = "OC"
variant = "oc"
evaluations = ["held_out", "controllability", "budget"]

[[runs]]
name = "tables"
title = "ID pre-training"
variant = "dot_product"
epochs = 2

[[runs]]
name = "mt_oc"
title = "{MT,OC}"
variant = "mt_oc"
id_tables = "tables"
evaluations = ["held_out", "cold", "held_out_offline", "steps", "budget"]

[[runs]]
name = "pinnerformer"
title = "PinnerFormer"
variant = "pinnerformer"

[[runs]]
name = "popularity-by-surface"
title = "popularity by surface"
recommender = "popularity-by-surface"
evaluations = ["held_out", "cold", "leave_one_out"]

[[ablations]]
name = "id_tables"
title = "ID tables"
reference = "uc"
runs = ["mt_oc"]
loss_curves = true
"""
)


def run_here(folder: Path, datasets: Path, *, overwrite: bool = False, only: list[str] | None = None) -> dict[str, str]:
    name = str(folder / "yelp.toml")
    return run_study(
        load_study(name), name, only=only, workers=0, threads=1, device="cpu", data=folder, work=folder / "work",
        datasets=datasets, out=folder / "figures", overwrite=overwrite,
    )  # fmt: skip
