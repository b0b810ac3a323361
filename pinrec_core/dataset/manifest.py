"""The manifest of a prepared dataset: its id kinds, its vocabularies, its feature space and its sizes.

``pinrec prepare`` writes it. A prepared dataset is a folder::

    dataset.json              this manifest
    catalogue.arrow           one row per item (pinrec_core.dataset.catalogue)
    features.parquet          key, item_type, feature and scale of every pin and query, for the Spark job
    events/part-*.parquet     the valid events
    quarantine.parquet        the rows that were set aside, with file, row and reason
    signals/sequences/        the users' sequences, which the Spark job writes and training reads
    signals/batch/            the same sequences as a key-value view for serving

Every release contains a copy of the manifest, and both signal stores are checked against it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Annotated

from pydantic import Field

from pinrec_core.config.sections import ModelConfig
from pinrec_core.contract import FORGET_USER
from pinrec_core.errors import DataError, shown
from pinrec_core.ids import IdKind
from pinrec_core.limits import NAME
from pinrec_core.validation import ListOf, OneOf, check, load_json, save_json, validated

MANIFEST_NAME = "dataset.json"
CATALOGUE_NAME = "catalogue.arrow"
SEQUENCES = Path("signals/sequences")
"""The folder, within a prepared dataset, of the sequences that training reads."""
UNKNOWN_SURFACE = ""


@validated(DataError)
class DatasetIdentity:
    """The meaning of the numbers in a dataset.

    A training run remembers it, because its model fits no dataset that differs in it, even if all sizes agree.
    """

    name: str
    item_id_kind: OneOf[IdKind]
    outcomes: ListOf[str]
    surfaces: ListOf[str]
    feature_space: str

    def differences(self, other: DatasetIdentity) -> Iterator[tuple[str, object, object]]:
        """For every field in which the two differ: its name, the value here and the value of ``other``."""
        for field in fields(self):
            own, others = getattr(self, field.name), getattr(other, field.name)
            if own != others:
                yield field.name, own, others


Number = Annotated[int, Field(ge=0)]


@validated(DataError)
class DatasetManifest:
    """The properties of a prepared dataset as a whole.

    ``outcomes`` are the positive actions, in the order in which the model numbers them. ``query_actions`` mark search
    queries. ``ignored_actions`` are valid in the log but are neither. ``surfaces[0]`` is the unknown surface.
    ``feature_space`` names the way in which content vectors are made: vectors of different spaces must not be mixed.
    """

    name: str
    user_id_kind: OneOf[IdKind]
    item_id_kind: OneOf[IdKind]
    outcomes: ListOf[str]
    query_actions: ListOf[str]
    ignored_actions: ListOf[str]
    surfaces: ListOf[str]
    feature_width: Annotated[int, Field(gt=0)]
    feature_space: str
    text_encoder: str
    num_items: Number
    num_users: Number
    num_events: Number
    outcome_share: ListOf[float]  # of each outcome among the positive events; the default budget
    first_timestamp: int
    last_timestamp: int  # of the events that were not dated ahead of the clock

    def __post_init__(self) -> None:
        for field in ("outcomes", "query_actions", "ignored_actions", "surfaces"):
            for name in getattr(self, field):
                check(len(name.encode("utf-8")) <= NAME.most, field, shown(name), f"names of at most {NAME.most} bytes")
        for field in ("outcomes", "query_actions", "ignored_actions"):
            check(FORGET_USER not in getattr(self, field), field, FORGET_USER, "another name, this one is reserved")
        check(bool(self.outcomes), "outcomes", self.outcomes, "at least one positive action")
        check(len(self.outcome_share) == len(self.outcomes), "outcome_share", self.outcome_share,
              f"{len(self.outcomes)} entries, one per outcome")  # fmt: skip
        check(self.surfaces[:1] == (UNKNOWN_SURFACE,), "surfaces", self.surfaces[:3], "the unknown surface '' first")

    @staticmethod
    def load(folder: Path) -> DatasetManifest:
        """Read ``folder/dataset.json``. Raises ``DataError`` when it is absent, damaged, or not a manifest."""
        return load_json(
            DatasetManifest, Path(folder) / MANIFEST_NAME, error=DataError, what="a prepared dataset's manifest",
            absent="run `pinrec prepare` first",
        )  # fmt: skip

    @property
    def identity(self) -> DatasetIdentity:
        return DatasetIdentity(**{field.name: getattr(self, field.name) for field in fields(DatasetIdentity)})

    def check_identity(self, trained_on: DatasetIdentity) -> None:
        """Raises ``DataError`` if the dataset that a model was trained on differs from this one in its identity."""
        for name, got, expected in self.identity.differences(trained_on):
            raise DataError(
                f"{name}={got!r} of dataset {self.name!r}: expected {expected!r}, which the model was trained with"
            )

    def check_model(self, config: ModelConfig) -> None:
        """Raises ``DataError`` if the sizes of a model that is to be trained are not those of this dataset."""
        sizes = {
            "num_outcomes": len(self.outcomes),
            "num_surfaces": len(self.surfaces),
            "feature_width": self.feature_width,
        }
        for name, got in sizes.items():
            expected = getattr(config, name)
            if got != expected:
                raise DataError(
                    f"{name}={got} of dataset {self.name!r}: expected {expected}, which the model was made for"
                )

    def save(self, folder: Path) -> None:
        save_json(self, Path(folder) / MANIFEST_NAME)
