"""The settings of the model, of its objective, of its training and of its generation: one class each.

Every value is checked when it is built. A release carries ``ModelConfig`` and ``GenerationConfig``; serving reads no
other settings of the model. This module knows no preset and no command line.
"""

from __future__ import annotations

from enum import StrEnum
from itertools import pairwise
from typing import Annotated

from pydantic import Field

from pinrec_core.contract import MAX_STRENGTH
from pinrec_core.validation import ListOf, OneOf, check, validated

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0, le=1 << 24)]
"""A number of things that are in memory at the same time. The upper bound catches typing errors."""
Width = Annotated[int, Field(gt=0, le=1 << 16)]
Seed = Annotated[int, Field(ge=0, lt=1 << 63)]


class Variant(StrEnum):
    """The kind of model. PinRec's own variants differ in what the output head is conditioned on (PinRec, objective)."""

    UC = "uc"  # on nothing
    OC = "oc"  # on the outcome
    MT = "mt"  # on the time offset
    MT_OC = "mt_oc"  # on both
    PINNERFORMER = "pinnerformer"  # a baseline: unconditioned, one embedding, trained on all future actions
    SASREC = "sasrec"  # a baseline: only IDs and positions as input, one embedding, trained on the next item
    DOT_PRODUCT = "dot_product"  # pre-trains the ID tables and generates nothing

    @property
    def outcome_conditioned(self) -> bool:
        return self in (Variant.OC, Variant.MT_OC)

    @property
    def multi_token(self) -> bool:
        return self in (Variant.MT, Variant.MT_OC)

    @property
    def one_embedding(self) -> bool:
        """Whether the model computes a single user embedding instead of generating several: true of the baselines."""
        return self in (Variant.PINNERFORMER, Variant.SASREC)


class WindowReduction(StrEnum):
    """How the losses of a window's targets become one (eq. 5; the paper does not settle it, so there is a choice)."""

    MEAN = "mean"  # their mean: every target has to be predicted
    MIN = "min"  # the smallest one: predicting any of the targets is enough
    MARGINAL = "marginal"  # −log of the mean probability: between the two, likelier targets count more


class Precision(StrEnum):
    """Number format of the matrix products in training. Weights, losses and optimiser states are always FP32."""

    FP32 = "fp32"
    BF16 = "bf16"


class GpuPrecision(StrEnum):
    """Number format of a model that is served on a GPU."""

    FP16 = "fp16"  # all of it
    BF16 = "bf16"  # the products of the decoder; its residual stream and everything else are FP32
    FP32 = "fp32"


class Allocation(StrEnum):
    """How shares of a budget become whole numbers of items."""

    DETERMINISTIC = "deterministic"  # the largest remainders are rounded up
    STOCHASTIC = "stochastic"  # remainders are rounded at random, so that the shares hold in expectation


class Merging(StrEnum):
    """How the items that the embeddings of a request found become one list. See ``pinrec_core.retrieval.merging``."""

    PER_OUTCOME = "per_outcome"  # each outcome chooses its share by what its own embeddings make of them
    QUOTA = "quota"  # each embedding brings as many as its quota says
    MIXTURE = "mixture"  # the likeliest under all embeddings together, shared out to the outcomes afterwards


@validated()
class ModelConfig:
    """The shape of the model. The letters are those of ``pinrec_core.contract.DIMENSIONS``.

    ``num_outcomes``, ``num_surfaces`` and ``feature_width`` come from the dataset, the others from a preset.
    """

    variant: OneOf[Variant]
    layers: Annotated[int, Field(gt=0, le=1 << 10)]  # L
    heads: Annotated[int, Field(gt=0)]
    hidden_width: Width  # H
    item_width: Width  # D
    id_width: Annotated[int, Field(ge=0, le=1 << 16)]  # I; without ID tables it is 0
    id_hashes: Annotated[int, Field(gt=0, le=1 << 6)]  # K
    id_rows: Annotated[int, Field(gt=0, le=1 << 32)]  # rows per hash table, a power of two
    embedder_layers: Annotated[int, Field(gt=0, le=1 << 6)]  # in each item embedder; the paper has 2 or 3
    max_history: Annotated[int, Field(gt=0, le=1 << 20)]  # the largest T; start and generated tokens do not count
    max_steps: Annotated[int, Field(gt=0, le=1 << 16)]  # the largest S
    max_offset: Annotated[int, Field(gt=0, le=1 << 16)]  # Δmax; always 1 unless the variant is trained on offsets
    offset_seconds: ListOf[int] = ()
    """How far ahead each offset looks, from 0 on, which is the next item. Without it offset δ is the δ-th item."""
    dropout: Share
    id_dropout: Share  # of the ID embedding, so that the model also learns from the content
    num_outcomes: Annotated[int, Field(gt=0)]  # O
    num_surfaces: Annotated[int, Field(gt=0)]
    feature_width: Annotated[int, Field(gt=0)]  # F

    def __post_init__(self) -> None:
        for width, parts in (("hidden_width", "heads"), ("id_width", "id_hashes")):
            got, divisor = getattr(self, width), getattr(self, parts)
            check(got % divisor == 0, width, got, f"a multiple of {parts}={divisor}")
        check(self.id_rows & (self.id_rows - 1) == 0, "id_rows", self.id_rows, "a power of two")
        if not (self.variant.multi_token or self.variant is Variant.DOT_PRODUCT):
            object.__setattr__(self, "max_offset", 1)
            object.__setattr__(self, "offset_seconds", ())
        seconds = self.offset_seconds
        ascending = not seconds or (seconds[0] == 0 and all(a < b for a, b in pairwise(seconds)))
        check(ascending, "offset_seconds", seconds, "ascending seconds, the first of them 0")
        check(len(seconds) in (0, self.max_offset), "offset_seconds", seconds, f"max_offset={self.max_offset} of them")

    @property
    def num_conditions(self) -> int:
        """The number of outcomes that the head distinguishes: O, or 1 if it is not conditioned on them."""
        return self.num_outcomes if self.variant.outcome_conditioned else 1

    @property
    def head_conditions(self) -> int:
        """What the head has an embedding for: the outcomes that it distinguishes and, behind them, no outcome."""
        return self.num_conditions + self.variant.outcome_conditioned

    @property
    def max_positions(self) -> int:
        """The positions of the decoder: the start token, the history, and all generated tokens but the last."""
        return 1 + self.max_history + self.max_steps - 1


@validated()
class ObjectiveConfig:
    """The sampled softmax and its targets (PinRec, objective)."""

    in_batch_negatives: Annotated[int, Field(ge=0, le=1 << 24)] = 1024
    random_negatives: Annotated[int, Field(ge=0, le=1 << 24)] = 1024
    windows_per_step: Count = 2048
    """The largest number of windows in a training step. Each is a hidden state, an offset and W target items."""
    window: Width = 4  # W; a variant without offsets predicts the next item
    next_window: Width = 1
    """W of δ = 1, whose embedding becomes the next token when generating. 1 is the next item alone."""
    next_share: Annotated[float, Field(ge=0, le=1)] = 0.75
    """The share of windows at δ = 1, however many offsets there are."""
    window_reduction: OneOf[WindowReduction] = WindowReduction.MARGINAL
    outcome_dropout: Share = 0.25
    """The share of windows that are predicted without their outcome, so that an outcome-conditioned model knows what it
    would say unconditioned."""
    init_temperature: Positive = 0.07  # the initial 1 / λ
    max_inverse_temperature: Positive = 100.0
    log_q: bool = True  # subtract log Q(i) from the logits; off only to measure the effect
    mask_own_positives: bool = True
    """Whether the user's other positive items are left out of the negatives; off only to measure the effect."""
    horizon_days: Annotated[float, Field(gt=0, le=36_525)] = 28.0  # PinnerFormer's targets lie within so many days
    sketch_width: Annotated[int, Field(gt=0, le=1 << 32)] = 1 << 16
    """Should exceed the number of items: otherwise collisions make rare items look frequent."""
    sketch_depth: Annotated[int, Field(gt=0, le=1 << 6)] = 4

    def __post_init__(self) -> None:
        check(self.in_batch_negatives + self.random_negatives > 0, "random_negatives", self.random_negatives,
              "at least one negative, in-batch or random")  # fmt: skip


@validated()
class TrainingConfig:
    """The settings of a training run."""

    epochs: Annotated[int, Field(gt=0)] = 10
    batch_users: Count = 64  # B, in each process
    accumulate_batches: Count = 1  # batches whose gradients are added for one step of the optimiser
    precision: OneOf[Precision] = Precision.FP32
    learning_rate: Positive = 1e-3
    id_learning_rate: Annotated[float, Field(ge=0)] = 3e-3  # for the ID tables; 0 freezes them
    shard_id_tables: bool = False  # split their rows over the processes, instead of a copy in every process
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warmup_share: Share = 0.05
    gradient_clip: Positive = 1.0
    evaluation_share: Share = 0.1  # of the users, who are held out of training; a hash decides
    held_out_last: Annotated[int, Field(ge=0)] = 0
    """The number of last interactions of every user that are held out of training. Queries do not count."""
    validation_users: Annotated[int, Field(ge=0)] = 256
    """The number of held-out users whose loss is computed after each epoch; 0 turns it off."""
    seed: Seed = 0


@validated()
class GenerationConfig:
    """The settings of generation, compression, allocation and retrieval in serving (PinRec, generation)."""

    steps: Annotated[int, Field(gt=0)] = 6  # S
    offsets: ListOf[int] = (1,)
    """δ of the W embeddings of a step. Contains 1: the embedding of the next item is the next step's input."""
    merge_cosine: Annotated[float, Field(ge=-1, le=1)] = 0.9
    """An embedding merges into a kept one if their cosine is above this. Calibrated when a release is made."""
    step_discount: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The weight of a step's embeddings, relative to the previous step. Calibrated when a release is made."""
    offset_discount: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The weight of an embedding at δ > 1, relative to that of the next item. Calibrated when a release is made."""
    strength: ListOf[float] = ()
    """How strongly each outcome steers: 0 not at all, 1 as trained. Calibrated when a release is made; none means 1."""
    allocation: OneOf[Allocation] = Allocation.DETERMINISTIC
    merging: OneOf[Merging] = Merging.PER_OUTCOME
    inverse_temperature: Positive = 1 / 0.07
    """λ, which the objective learned: it turns inner products into probabilities."""
    overfetch: Annotated[float, Field(ge=1)] = 8.0
    """Each embedding retrieves this many times the largest quota, because similar embeddings find the same items."""
    nprobe: Annotated[int, Field(gt=0)] = 8
    default_num_items: Annotated[int, Field(gt=0)] = 100
    max_num_items: Annotated[int, Field(gt=0)] = 3000

    def __post_init__(self) -> None:
        distinct = 1 in self.offsets and len(set(self.offsets)) == len(self.offsets) and min(self.offsets) >= 1
        check(distinct, "offsets", self.offsets, "distinct offsets of at least 1, with 1 among them")
        in_range = all(0 <= s <= MAX_STRENGTH for s in self.strength)
        check(in_range, "strength", self.strength, f"numbers from 0 to {MAX_STRENGTH}")
