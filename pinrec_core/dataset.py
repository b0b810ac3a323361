"""What a prepared dataset is, apart from its rows: id kinds, vocabularies, feature space.

``pinrec prepare`` writes it. A prepared dataset is a folder::

    dataset.json              this manifest
    catalogue.arrow           one row per item (pinrec_core.catalogue)
    features.parquet          key, item_type, feature, scale of every pin and query: the Spark job's second input
    events/part-*.parquet     the valid events
    quarantine.parquet        the rows set aside, with file, row and reason
    signals/sequences/        per-user sequences, written by the Spark job; training reads them
    signals/batch/            the same sequences as a key-value view for serving

The manifest is copied into every release, and both signal stores are checked against it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from pinrec_core.config import ModelConfig
from pinrec_core.errors import DataError
from pinrec_core.ids import IdKind

MANIFEST_NAME = "dataset.json"
SEQUENCES = Path("signals/sequences")
"""Where a prepared dataset holds the sequences that training reads."""
UNKNOWN_SURFACE = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetIdentity:
    """What the numbers in a dataset mean. A training run remembers it: it fits no dataset that differs in it, whatever
    the sizes."""

    name: str
    item_id_kind: str
    outcomes: tuple[str, ...]
    surfaces: tuple[str, ...]
    feature_space: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "item_id_kind", str(IdKind(self.item_id_kind)))
        for name in ("outcomes", "surfaces"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    def differences(self, other: DatasetIdentity) -> Iterator[tuple[str, object, object]]:
        """Name, this one's value and the other's, of every field in which they differ."""
        for field in fields(self):
            own, others = getattr(self, field.name), getattr(other, field.name)
            if own != others:
                yield field.name, own, others


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetManifest:
    """What is known of a prepared dataset as a whole.

    ``outcomes`` are the positive actions in the order the model numbers them; ``query_actions`` mark search queries;
    ``ignored_actions`` are valid in the log but neither. ``surfaces[0]`` is the unknown surface. ``feature_space``
    names how content vectors are made: two parts with different values must not be mixed.
    """

    name: str
    user_id_kind: IdKind
    item_id_kind: IdKind
    outcomes: tuple[str, ...]
    query_actions: tuple[str, ...]
    ignored_actions: tuple[str, ...]
    surfaces: tuple[str, ...]
    feature_width: int
    feature_space: str
    text_encoder: str
    num_items: int
    num_users: int
    num_events: int
    outcome_share: tuple[float, ...]  # share of each outcome among positive events; the default budget
    first_timestamp: int
    last_timestamp: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "user_id_kind", IdKind(self.user_id_kind))
        object.__setattr__(self, "item_id_kind", IdKind(self.item_id_kind))
        for name in ("outcomes", "query_actions", "ignored_actions", "surfaces", "outcome_share"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.outcomes:
            raise DataError("outcomes=(): expected at least one positive action")
        if len(self.outcome_share) != len(self.outcomes):
            raise DataError(
                f"outcome_share has {len(self.outcome_share)} entries: expected {len(self.outcomes)}, one per outcome"
            )
        if not self.surfaces or self.surfaces[0] != UNKNOWN_SURFACE:
            raise DataError(f"surfaces={self.surfaces[:3]}: expected the unknown surface '' first")

    @staticmethod
    def load(folder: Path) -> DatasetManifest:
        """Read ``folder/dataset.json``. Raises ``DataError`` when it is absent, damaged or has other keys."""
        path = Path(folder) / MANIFEST_NAME
        if not path.is_file():
            raise DataError(f"{path}: expected a prepared dataset's manifest; run `pinrec prepare` first")
        known = {f.name for f in fields(DatasetManifest)}
        try:
            raw = json.loads(path.read_text("utf-8"))
            if set(raw) != known:
                raise DataError(f"{path}: unknown or missing keys {sorted(set(raw) ^ known)}")
            return DatasetManifest(**raw)
        except (ValueError, TypeError) as error:  # not JSON, or a value of another kind
            raise DataError(f"{path}: expected a dataset's manifest, {error}") from error

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
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False)
        (Path(folder) / MANIFEST_NAME).write_text(text + "\n", "utf-8")
