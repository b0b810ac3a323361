"""A release of any size, made of random weights and items, with signals: what costs memory and time is all there.

It is published as every release is, its index built and its parts verified, but nothing is trained: its answers are
valid and mean nothing.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pinrec_core.config.presets import preset as preset_named
from pinrec_core.config.sections import ModelConfig, Variant
from pinrec_core.dataset.batch_info import BatchInfo
from pinrec_core.dataset.catalogue import ItemCatalogue, write_catalogue
from pinrec_core.dataset.manifest import SEQUENCES, DatasetManifest
from pinrec_core.generation.defaults import default_generation
from pinrec_core.ids import IdKind
from pinrec_core.model.pinrec import PinRec
from pinrec_core.release.calibration import NOT_YET
from pinrec_core.release.format import Release
from pinrec_core.release.indexed_model import IndexedModel
from pinrec_core.release.manifest import HeldOut
from pinrec_core.release.publishing import publish
from pinrec_core.representations.id_tables import IdTables
from pinrec_core.retrieval.catalogue_vectors import represent_catalogue
from pinrec_core.retrieval.item_index import ItemIndex
from signal_service.view_writing import build_batch_view

FEATURE_WIDTH = 256
OUTCOMES, SURFACES = ("like", "neutral", "dislike"), ("", "home")
FIRST, LAST = 1_600_000_000, 1_700_000_000  # timestamps of the log
NPROBE = 64
HASHES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What a made-up release is made of: V items, rows of its ID tables in all, and the preset of its model.

    It has five hashes, so that a power of two of rows for each comes near to ``table_rows``, and rows of the preset's
    width.
    """

    items: int
    table_rows: int
    preset: str
    users: int = 256

    @property
    def model(self) -> ModelConfig:
        """The preset's model with the least power of two of rows per hash that makes at least ``table_rows``."""
        config = preset_named(self.preset).model_for(
            variant=Variant.MT_OC, num_outcomes=len(OUTCOMES), num_surfaces=len(SURFACES), feature_width=FEATURE_WIDTH
        )
        row_width = config.id_width // config.id_hashes
        rows = -(-self.table_rows // HASHES)
        return replace(config, id_hashes=HASHES, id_width=HASHES * row_width, id_rows=1 << (rows - 1).bit_length())


def make_release(folder: Path, sizes: Sizes, report: Callable[[str], None]) -> tuple[Release, Path]:
    """Publish a release in ``folder/releases`` → it, and the folder of its signals. Minutes for a million items."""
    random = np.random.default_rng(0)
    torch.manual_seed(0)
    dataset = folder / "dataset"
    dataset.mkdir(parents=True)
    report(f"{sizes.items:,} items")
    _write_dataset(dataset, sizes, random)
    model, catalogue = PinRec(sizes.model).eval(), ItemCatalogue.open(dataset)
    embed_ids = IdTables.pack(model.id_embedding)
    report(f"representing {sizes.items:,} items")
    vectors = represent_catalogue(model, embed_ids, catalogue)
    report("indexing")
    serving = IndexedModel(
        model=model,
        embed_ids=embed_ids,
        catalogue=catalogue,
        index=ItemIndex.build(vectors, nprobe=NPROBE),
        generation=replace(default_generation(model.config), nprobe=NPROBE),
        dataset=DatasetManifest.load(dataset),
        calibration=NOT_YET,
    )
    release = publish(
        serving, dataset=dataset, releases=folder / "releases", training=HeldOut(evaluation_share=0.0, held_out_last=0),
        metrics={}, now=datetime.datetime.now(datetime.UTC), accept_recall=True, report=report,
    )  # fmt: skip
    return release, dataset / "signals"


def _write_dataset(dataset: Path, sizes: Sizes, random: np.random.Generator) -> None:
    """A catalogue of random features, and users whose histories are as long as the model reads."""
    V, T = sizes.items, sizes.model.max_history
    item_id = pa.array(np.arange(V))
    feature = random.integers(-127, 128, (V, FEATURE_WIDTH), dtype=np.int8)
    scale = np.full(V, 1 / 127 / FEATURE_WIDTH**0.5, np.float32)
    no_text = pa.array([""]).take(pa.array(np.zeros(V, np.int64)))
    write_catalogue(dataset, item_key=np.arange(V), item_id=item_id, title=no_text, categories=no_text,
                    feature=feature, scale=scale)  # fmt: skip
    manifest = DatasetManifest(
        name="made up", user_id_kind=IdKind.INT, item_id_kind=IdKind.INT, outcomes=OUTCOMES, query_actions=(),
        ignored_actions=(), surfaces=SURFACES, feature_width=FEATURE_WIDTH,
        feature_space=f"hashed_ngram:{FEATURE_WIDTH}+vector:0", text_encoder=f"hashed_ngram:{FEATURE_WIDTH}",
        num_items=V, num_users=sizes.users, num_events=T * sizes.users,
        outcome_share=tuple(1 / len(OUTCOMES) for _ in OUTCOMES), first_timestamp=FIRST, last_timestamp=LAST,
    )  # fmt: skip
    manifest.save(dataset)
    signals = dataset / "signals"
    sequences = dataset / SEQUENCES
    sequences.mkdir(parents=True)
    manifest.save(signals)
    row = random.integers(0, V, (sizes.users, T))
    columns = {
        "item_key": (row, pa.int64()),
        "item_type": (np.zeros_like(row), pa.int8()),
        "outcome": (random.integers(0, len(OUTCOMES), row.shape), pa.int16()),
        "surface": (random.integers(0, len(SURFACES), row.shape), pa.int16()),
        "timestamp": (np.sort(random.integers(FIRST, LAST, row.shape)), pa.int64()),
        "scale": (scale[row], pa.float32()),
    }
    table = {name: pa.array(values.tolist(), pa.list_(kind)) for name, (values, kind) in columns.items()}
    features = [[feature[item].tobytes() for item in history] for history in row]
    table |= {"user_id": pa.array(np.arange(sizes.users)), "feature": pa.array(features, pa.list_(pa.binary()))}
    pq.write_table(pa.table(table), sequences / "part-0.parquet")
    BatchInfo(
        end_time=LAST + 1, feature_space=manifest.feature_space, outcomes=manifest.outcomes,
        surfaces=manifest.surfaces, num_users=sizes.users, num_interactions=manifest.num_events,
    ).save(sequences)  # fmt: skip
    build_batch_view(signals)
