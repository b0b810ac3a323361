"""Configuration of the model, its objective, its training and its generation; presets are data.

Frozen, keyword-only, validated on construction; unknown keys are refused. A release carries ``ModelConfig`` and
``GenerationConfig``; nothing at serving time reads any other setting of the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any, Self, get_origin, get_type_hints

from pinrec_core.errors import ConfigError, require


class Variant(StrEnum):
    """What the output head is conditioned on (PinRec, objective)."""

    UC = "uc"  # nothing
    OC = "oc"  # the outcome
    MT = "mt"  # the time offset
    MT_OC = "mt_oc"  # both
    PINNERFORMER = "pinnerformer"  # baseline: unconditioned, one embedding, trained on all actions to come
    SASREC = "sasrec"  # baseline: ids and positions alone, one embedding, trained on the next item
    DOT_PRODUCT = "dot_product"  # pre-training of the ID tables alone; generates nothing

    @property
    def outcome_conditioned(self) -> bool:
        return self in (Variant.OC, Variant.MT_OC)

    @property
    def multi_token(self) -> bool:
        return self in (Variant.MT, Variant.MT_OC)

    @property
    def one_embedding(self) -> bool:
        """Whether the model answers with a single user embedding: a baseline, not a generator."""
        return self in (Variant.PINNERFORMER, Variant.SASREC)


class WindowReduction(StrEnum):
    """How the targets of one window are combined (eq. 5; not recoverable from the paper, so several are offered)."""

    MEAN = "mean"  # of their losses: every target is to be covered
    MIN = "min"  # the target of least loss counts alone
    MARGINAL = "marginal"  # of their probabilities: between the two, the likelier a target the more it counts


class Precision(StrEnum):
    """Arithmetic of the training step's matrix products; weights, losses and optimiser states stay in FP32."""

    FP32 = "fp32"
    BF16 = "bf16"


class Allocation(StrEnum):
    """How a budget becomes whole items: largest remainder, or the same in expectation with drawn remainders."""

    DETERMINISTIC = "deterministic"
    STOCHASTIC = "stochastic"


class Merging(StrEnum):
    """What the quotas of a request's embeddings mean when their finds become one list (``pinrec_core.merging``)."""

    QUOTA = "quota"  # how many items each brings
    MIXTURE = "mixture"  # how much each one's probabilities weigh


class _Config:
    """Building from and to plain data, with unknown keys refused."""

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
        unknown = sorted(set(raw) - known)
        require(not unknown, f"{cls.__name__} keys", unknown, f"only {sorted(known)}", error=ConfigError)
        try:
            return cls(**raw)
        except TypeError as error:
            raise ConfigError(f"{cls.__name__}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        plain: dict[str, Any] = {}
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            plain[field.name] = list(value) if isinstance(value, tuple) else value
        return plain

    def _check_types(self) -> None:
        """Refuse values of another type than the field's: they come from JSON files and from ``--set`` as well."""
        for name, kind in get_type_hints(type(self)).items():
            object.__setattr__(self, name, _typed(kind, name, getattr(self, name)))

    def _positive(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            require(value > 0, name, value, "a value above 0", error=ConfigError)

    def _at_most(self, **limits: float) -> None:
        for name, limit in limits.items():
            value = getattr(self, name)
            require(value <= limit, name, value, f"a value of at most {limit:,}", error=ConfigError)

    def _not_negative(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            require(value >= 0, name, value, "a value of at least 0", error=ConfigError)


def _typed(kind: Any, name: str, value: Any) -> Any:
    """``value`` as a field of type ``kind`` holds it: an enumeration, a tuple of integers, an int or a float."""
    if get_origin(kind) is tuple:
        require(isinstance(value, (tuple, list)), name, value, "a list of whole numbers", error=ConfigError)
        return tuple(_typed(int, f"{name}[{position}]", entry) for position, entry in enumerate(value))
    if issubclass(kind, StrEnum):
        names = [member.value for member in kind]
        require(value in names, name, value, f"one of {names}", error=ConfigError)
        return kind(value)
    if kind is bool:
        require(isinstance(value, bool), name, value, "true or false", error=ConfigError)
        return value
    whole = isinstance(value, int) and not isinstance(value, bool)
    require(not whole or abs(value) < 1 << 63, name, value, "a number of 64 bits", error=ConfigError)
    if kind is int:
        require(whole, name, value, "a whole number", error=ConfigError)
    else:
        finite = whole or (isinstance(value, float) and math.isfinite(value))
        require(finite, name, value, "a finite number", error=ConfigError)
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig(_Config):
    """Shape of the model. Letters are those of ``pinrec_core.contract.DIMENSIONS``.

    ``num_outcomes``, ``num_surfaces`` and ``feature_width`` come from the dataset; the rest from a preset.
    """

    variant: Variant
    layers: int  # L
    heads: int
    hidden_width: int  # H
    item_width: int  # D
    id_width: int  # I; 0 leaves the ID tables out
    id_hashes: int  # K
    id_rows: int  # rows per hash table, a power of two
    embedder_layers: int  # fully connected layers of each item embedder, 2 or 3 in the paper
    max_history: int  # longest T; the start token and the generated tokens come on top
    max_steps: int  # longest S
    max_offset: int  # Δmax; 1 where the variant predicts the next item alone
    dropout: float
    id_dropout: float  # of the ID embedding's entries, so that the model does not lean on it alone
    num_outcomes: int  # O
    num_surfaces: int
    feature_width: int  # F

    def __post_init__(self) -> None:
        self._check_types()
        self._positive(
            "layers", "heads", "hidden_width", "item_width", "embedder_layers", "max_history", "max_steps",
            "max_offset", "num_outcomes", "num_surfaces", "feature_width", "id_hashes", "id_rows",
        )  # fmt: skip
        self._not_negative("id_width")
        self._at_most(
            layers=1 << 10, hidden_width=1 << 16, item_width=1 << 16, id_width=1 << 16, id_hashes=1 << 6,
            id_rows=1 << 32, embedder_layers=1 << 6, max_history=1 << 20, max_steps=1 << 16, max_offset=1 << 16,
        )  # fmt: skip
        require(self.hidden_width % self.heads == 0, "hidden_width", self.hidden_width,
                f"a multiple of heads={self.heads}", error=ConfigError)  # fmt: skip
        require(self.id_width % self.id_hashes == 0, "id_width", self.id_width,
                f"a multiple of id_hashes={self.id_hashes}", error=ConfigError)  # fmt: skip
        require(self.id_rows & (self.id_rows - 1) == 0, "id_rows", self.id_rows, "a power of two", error=ConfigError)
        for name in ("dropout", "id_dropout"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "a value in [0, 1)", error=ConfigError)
        if not (self.variant.multi_token or self.variant is Variant.DOT_PRODUCT):
            object.__setattr__(self, "max_offset", 1)

    @property
    def num_conditions(self) -> int:
        """Outcomes the head tells apart: O, or 1 where it is not conditioned on them."""
        return self.num_outcomes if self.variant.outcome_conditioned else 1

    @property
    def max_positions(self) -> int:
        """Positions of the decoder: start token, history, generated tokens."""
        return 1 + self.max_history + self.max_steps - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveConfig(_Config):
    """The sampled softmax and its targets (PinRec, objective)."""

    in_batch_negatives: int = 1024
    random_negatives: int = 1024
    windows_per_step: int = 2048  # at most: pairs of a hidden state and an offset, each with its window of targets
    window: int = 4  # W; 1 unless the variant is multi-token
    window_reduction: WindowReduction = WindowReduction.MARGINAL
    init_temperature: float = 0.07  # λ starts at its inverse
    max_inverse_temperature: float = 100.0
    log_q: bool = True  # subtract log Q(i) from the logits; off only to measure what it is worth
    mask_own_positives: bool = True  # of the other items a user acted on; off only to measure
    horizon_days: float = 28.0  # of the dense all-action targets (PinnerFormer)
    sketch_width: int = 1 << 16  # above the number of items, or rare ones all look as frequent as their collisions
    sketch_depth: int = 4

    def __post_init__(self) -> None:
        self._check_types()
        self._positive(
            "windows_per_step", "window", "init_temperature", "max_inverse_temperature", "horizon_days", "sketch_width",
            "sketch_depth",
        )  # fmt: skip
        self._not_negative("in_batch_negatives", "random_negatives")
        self._at_most(
            in_batch_negatives=1 << 24, random_negatives=1 << 24, windows_per_step=1 << 24, window=1 << 16,
            horizon_days=36_525, sketch_width=1 << 32, sketch_depth=1 << 6,
        )  # fmt: skip
        require(self.in_batch_negatives + self.random_negatives > 0, "random_negatives", self.random_negatives,
                "at least one negative, in-batch or random", error=ConfigError)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig(_Config):
    """One training run."""

    epochs: int = 10
    batch_users: int = 64  # B, per process
    accumulate_batches: int = 1  # batches whose gradients make one step of the optimiser
    precision: Precision = Precision.FP32
    learning_rate: float = 1e-3
    id_learning_rate: float = 3e-3  # of the ID tables; 0 freezes them
    shard_id_tables: bool = False  # split their rows over the processes instead of keeping a copy in each
    weight_decay: float = 0.01
    warmup_share: float = 0.05
    gradient_clip: float = 1.0
    evaluation_share: float = 0.1  # users held out of training, by hash
    held_out_last: int = 0  # last interactions of every user that training never sees, queries not counted
    validation_users: int = 256  # held-out users whose loss is taken after each epoch; 0: none
    seed: int = 0

    def __post_init__(self) -> None:
        self._check_types()
        self._positive("epochs", "batch_users", "accumulate_batches", "learning_rate", "gradient_clip")
        self._not_negative("id_learning_rate", "weight_decay", "held_out_last", "validation_users", "seed")
        self._at_most(batch_users=1 << 24, accumulate_batches=1 << 24)
        require(0 <= self.warmup_share < 1, "warmup_share", self.warmup_share, "a value in [0, 1)", error=ConfigError)
        require(0 <= self.evaluation_share < 1, "evaluation_share", self.evaluation_share, "a value in [0, 1)",
                error=ConfigError)  # fmt: skip
        require(self.seed < 1 << 63, "seed", self.seed, "a value below 2^63", error=ConfigError)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationConfig(_Config):
    """Generation, compression, allocation and retrieval at serving time (PinRec, generation)."""

    steps: int = 6  # S
    offsets: tuple[int, ...] = (1,)  # δ of the W embeddings of a step; holds 1, which feeds back
    merge_cosine: float = 0.9  # an embedding merges into a kept one above this; calibrated when a release is made
    step_discount: float = 1.0  # weight of a step's embeddings beside the step before; calibrated with the release
    allocation: Allocation = Allocation.DETERMINISTIC
    merging: Merging = Merging.MIXTURE
    inverse_temperature: float = 1 / 0.07  # λ that the objective learned: makes inner products probabilities
    overfetch: float = 8.0  # each embedding looks up this many times the largest quota: neighbours want the same items
    nprobe: int = 8
    default_num_items: int = 100
    max_num_items: int = 3000

    def __post_init__(self) -> None:
        self._check_types()
        self._positive("steps", "inverse_temperature", "nprobe", "default_num_items", "max_num_items")
        distinct = 1 in self.offsets and len(set(self.offsets)) == len(self.offsets) and min(self.offsets) >= 1
        expected = "distinct offsets of at least 1, with 1 among them"
        require(distinct, "offsets", self.offsets, expected, error=ConfigError)
        require(
            -1 <= self.merge_cosine <= 1, "merge_cosine", self.merge_cosine, "a cosine in [-1, 1]", error=ConfigError
        )
        require(0 < self.step_discount <= 1, "step_discount", self.step_discount, "a value in (0, 1]",
                error=ConfigError)  # fmt: skip
        require(self.overfetch >= 1, "overfetch", self.overfetch, "a factor of at least 1", error=ConfigError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset(_Config):
    """A named starting point. ``model`` lacks the three sizes that the dataset decides."""

    model: Mapping[str, Any]
    objective: ObjectiveConfig
    training: TrainingConfig

    def model_for(self, *, variant: Variant, num_outcomes: int, num_surfaces: int, feature_width: int) -> ModelConfig:
        with named_section("model"):
            return ModelConfig(
                variant=variant,
                num_outcomes=num_outcomes,
                num_surfaces=num_surfaces,
                feature_width=feature_width,
                **self.model,
            )


PRESETS: dict[str, Preset] = {
    "tiny": Preset(
        model={
            "layers": 2, "heads": 2, "hidden_width": 64, "item_width": 32, "embedder_layers": 2, "dropout": 0.0,
            "id_dropout": 0.0, "id_width": 32, "id_hashes": 2, "id_rows": 1 << 12, "max_history": 64,
            "max_steps": 8, "max_offset": 4,
        },
        objective=ObjectiveConfig(in_batch_negatives=512, random_negatives=512, windows_per_step=1024),
        training=TrainingConfig(epochs=12, batch_users=16, learning_rate=2e-3),
    ),
    "small": Preset(
        model={
            "layers": 4, "heads": 4, "hidden_width": 128, "item_width": 64, "embedder_layers": 2, "dropout": 0.1,
            "id_dropout": 0.0, "id_width": 64, "id_hashes": 2, "id_rows": 1 << 15, "max_history": 128,
            "max_steps": 8, "max_offset": 8,
        },
        objective=ObjectiveConfig(in_batch_negatives=1024, random_negatives=2048, windows_per_step=2048),
        training=TrainingConfig(epochs=10, batch_users=32, learning_rate=1.5e-3),
    ),
    "base": Preset(
        model={
            "layers": 12, "heads": 12, "hidden_width": 768, "item_width": 256, "embedder_layers": 3, "dropout": 0.1,
            "id_dropout": 0.0, "id_width": 256, "id_hashes": 4, "id_rows": 1 << 20, "max_history": 512,
            "max_steps": 16, "max_offset": 16,
        },
        objective=ObjectiveConfig(
            in_batch_negatives=8192, random_negatives=16384, windows_per_step=8192, sketch_width=1 << 22
        ),
        training=TrainingConfig(epochs=5, batch_users=64, learning_rate=3e-4, id_learning_rate=1e-3),
    ),
}  # fmt: skip
"""``tiny`` for tests and the demo, ``small`` for a CPU, ``base`` at the size reported for production."""


def preset(name: str) -> Preset:
    require(name in PRESETS, "preset", name, f"one of {sorted(PRESETS)}", error=ConfigError)
    return PRESETS[name]


@contextmanager
def named_section(section: str) -> Iterator[None]:
    """Puts the section in front of the field that an error names, as ``--set`` writes it."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{section}.{error}") from error


def with_changes(config: Any, changes: Mapping[str, Any]) -> Any:
    """A copy with fields replaced; unknown names are refused. For ``--set objective.window=8`` and for tests."""
    known = {f.name for f in fields(config)}
    unknown = sorted(set(changes) - known)
    require(not unknown, f"{type(config).__name__} keys", unknown, f"only {sorted(known)}", error=ConfigError)
    return replace(config, **changes)
