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
class DatasetManifest:
    """The identity of a prepared dataset.

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

    def check_model(self, config: ModelConfig) -> None:
        """Raises ``DataError`` where a model was made for other vocabularies or features than this dataset's."""
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
