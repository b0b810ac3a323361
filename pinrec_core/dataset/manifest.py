"""What a prepared dataset is, apart from its rows: id kinds, vocabularies, feature space.

``pinrec prepare`` writes it. A prepared dataset is a folder::

    dataset.json              this manifest
    catalogue.arrow           one row per item (pinrec_core.dataset.catalogue)
    features.parquet          key, item_type, feature, scale of every pin and query: the Spark job's second input
    events/part-*.parquet     the valid events
    quarantine.parquet        the rows set aside, with file, row and reason
    signals/sequences/        per-user sequences, written by the Spark job; training reads them
    signals/batch/            the same sequences as a key-value view for serving

The manifest is copied into every release, and both signal stores are checked against it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Annotated

from pydantic import Field

from pinrec_core.config.sections import ModelConfig
from pinrec_core.errors import DataError
from pinrec_core.ids import IdKind
from pinrec_core.validation import ListOf, OneOf, check, load_json, save_json, validated

MANIFEST_NAME = "dataset.json"
SEQUENCES = Path("signals/sequences")
"""Where a prepared dataset holds the sequences that training reads."""
UNKNOWN_SURFACE = ""


@validated(DataError)
class DatasetIdentity:
    """What the numbers in a dataset mean. A training run remembers it: it fits no dataset that differs in it, whatever
    the sizes."""

    name: str
    item_id_kind: OneOf[IdKind]
    outcomes: ListOf[str]
    surfaces: ListOf[str]
    feature_space: str

    def differences(self, other: DatasetIdentity) -> Iterator[tuple[str, object, object]]:
        """Name, this one's value and the other's, of every field in which they differ."""
        for field in fields(self):
            own, others = getattr(self, field.name), getattr(other, field.name)
            if own != others:
                yield field.name, own, others


Number = Annotated[int, Field(ge=0)]


@validated(DataError)
class DatasetManifest:
    """What is known of a prepared dataset as a whole.

    ``outcomes`` are the positive actions in the order the model numbers them; ``query_actions`` mark search queries;
    ``ignored_actions`` are valid in the log but neither. ``surfaces[0]`` is the unknown surface. ``feature_space``
    names how content vectors are made: two parts with different values must not be mixed.
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
    outcome_share: ListOf[float]  # share of each outcome among positive events; the default budget
    first_timestamp: int
    last_timestamp: int

    def __post_init__(self) -> None:
        check(bool(self.outcomes), "outcomes", self.outcomes, "at least one positive action")
        check(len(self.outcome_share) == len(self.outcomes), "outcome_share", self.outcome_share,
              f"{len(self.outcomes)} entries, one per outcome")  # fmt: skip
        check(self.surfaces[:1] == (UNKNOWN_SURFACE,), "surfaces", self.surfaces[:3], "the unknown surface '' first")

    @staticmethod
    def load(folder: Path) -> DatasetManifest:
        """Read ``folder/dataset.json``. Raises ``DataError`` when it is absent, damaged or has other keys."""
        return load_json(
            DatasetManifest, Path(folder) / MANIFEST_NAME, error=DataError, what="a prepared dataset's manifest",
            absent="run `pinrec prepare` first",
        )  # fmt: skip

    @property
    def identity(self) -> DatasetIdentity:
        return DatasetIdentity(**{field.name: getattr(self, field.name) for field in fields(DatasetIdentity)})

    def check_identity(self, trained_on: DatasetIdentity) -> None:
        """Raises ``DataError`` where a model was trained on another dataset, or on other numbers for the same names."""
        for name, got, expected in self.identity.differences(trained_on):
            raise DataError(
                f"{name}={got!r} of dataset {self.name!r}: expected {expected!r}, which the model was trained with"
            )

    def check_model(self, config: ModelConfig) -> None:
        """Raises ``DataError`` where a model to be trained has other sizes than this dataset's."""
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
