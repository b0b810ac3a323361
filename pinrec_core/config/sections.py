"""What can be set of the model, its objective, its training and its generation: one class each.

A value is checked when it is built. A release carries ``ModelConfig`` and ``GenerationConfig``; nothing at serving time
reads any other setting of the model. This module knows no preset and no command line.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from pinrec_core.validation import ListOf, OneOf, check, validated

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0, le=1 << 24)]
"""Of things that are held in memory at once: more of them is a slip of the finger."""
Width = Annotated[int, Field(gt=0, le=1 << 16)]
Seed = Annotated[int, Field(ge=0, lt=1 << 63)]


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
    """What the quotas of embeddings mean when their finds become one list (``pinrec_core.retrieval.merging``)."""

    QUOTA = "quota"  # how many items each brings
    MIXTURE = "mixture"  # how much each one's probabilities weigh


@validated()
class ModelConfig:
    """Shape of the model. Letters are those of ``pinrec_core.contract.DIMENSIONS``.

    ``num_outcomes``, ``num_surfaces`` and ``feature_width`` come from the dataset; the rest from a preset.
    """

    variant: OneOf[Variant]
    layers: Annotated[int, Field(gt=0, le=1 << 10)]  # L
    heads: Annotated[int, Field(gt=0)]
    hidden_width: Width  # H
    item_width: Width  # D
    id_width: Annotated[int, Field(ge=0, le=1 << 16)]  # I; 0 leaves the ID tables out
    id_hashes: Annotated[int, Field(gt=0, le=1 << 6)]  # K
    id_rows: Annotated[int, Field(gt=0, le=1 << 32)]  # rows per hash table, a power of two
    embedder_layers: Annotated[int, Field(gt=0, le=1 << 6)]  # of each item embedder; 2 or 3 in the paper
    max_history: Annotated[int, Field(gt=0, le=1 << 20)]  # longest T; start token and generated tokens come on top
    max_steps: Annotated[int, Field(gt=0, le=1 << 16)]  # longest S
    max_offset: Annotated[int, Field(gt=0, le=1 << 16)]  # Δmax; 1 where the variant predicts the next item alone
    dropout: Share
    id_dropout: Share  # of the ID embedding's entries, so that the model does not lean on it alone
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

    @property
    def num_conditions(self) -> int:
        """Outcomes the head tells apart: O, or 1 where it is not conditioned on them."""
        return self.num_outcomes if self.variant.outcome_conditioned else 1

    @property
    def max_positions(self) -> int:
        """Positions of the decoder: start token, history, generated tokens."""
        return 1 + self.max_history + self.max_steps - 1


@validated()
class ObjectiveConfig:
    """The sampled softmax and its targets (PinRec, objective)."""

    in_batch_negatives: Annotated[int, Field(ge=0, le=1 << 24)] = 1024
    random_negatives: Annotated[int, Field(ge=0, le=1 << 24)] = 1024
    windows_per_step: Count = 2048  # at most: pairs of a hidden state and an offset, each with its window of targets
    window: Width = 4  # W; 1 unless the variant is multi-token
    window_reduction: OneOf[WindowReduction] = WindowReduction.MARGINAL
    init_temperature: Positive = 0.07  # λ starts at its inverse
    max_inverse_temperature: Positive = 100.0
    log_q: bool = True  # subtract log Q(i) from the logits; off only to measure what it is worth
    mask_own_positives: bool = True  # of the other items a user acted on; off only to measure
    horizon_days: Annotated[float, Field(gt=0, le=36_525)] = 28.0  # of the dense all-action targets (PinnerFormer)
    sketch_width: Annotated[int, Field(gt=0, le=1 << 32)] = 1 << 16
    """Above the number of items, or rare ones all look as frequent as their collisions."""
    sketch_depth: Annotated[int, Field(gt=0, le=1 << 6)] = 4

    def __post_init__(self) -> None:
        check(self.in_batch_negatives + self.random_negatives > 0, "random_negatives", self.random_negatives,
              "at least one negative, in-batch or random")  # fmt: skip


@validated()
class TrainingConfig:
    """One training run."""

    epochs: Annotated[int, Field(gt=0)] = 10
    batch_users: Count = 64  # B, per process
    accumulate_batches: Count = 1  # batches whose gradients make one step of the optimiser
    precision: OneOf[Precision] = Precision.FP32
    learning_rate: Positive = 1e-3
    id_learning_rate: Annotated[float, Field(ge=0)] = 3e-3  # of the ID tables; 0 freezes them
    shard_id_tables: bool = False  # split their rows over the processes instead of keeping a copy in each
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warmup_share: Share = 0.05
    gradient_clip: Positive = 1.0
    evaluation_share: Share = 0.1  # users held out of training, by hash
    held_out_last: Annotated[int, Field(ge=0)] = 0
    """Last interactions of every user that training never sees, queries not counted."""
    validation_users: Annotated[int, Field(ge=0)] = 256
    """Held-out users whose loss is taken after each epoch; 0: none."""
    seed: Seed = 0


@validated()
class GenerationConfig:
    """Generation, compression, allocation and retrieval at serving time (PinRec, generation)."""

    steps: Annotated[int, Field(gt=0)] = 6  # S
    offsets: ListOf[int] = (1,)  # δ of the W embeddings of a step; holds 1, which feeds back
    merge_cosine: Annotated[float, Field(ge=-1, le=1)] = 0.9
    """An embedding merges into a kept one above this; calibrated when a release is made."""
    step_discount: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Weight of a step's embeddings beside the step before; calibrated when a release is made."""
    allocation: OneOf[Allocation] = Allocation.DETERMINISTIC
    merging: OneOf[Merging] = Merging.MIXTURE
    inverse_temperature: Positive = 1 / 0.07  # λ that the objective learned: makes inner products probabilities
    overfetch: Annotated[float, Field(ge=1)] = 8.0
    """Each embedding looks up this many times the largest quota, because neighbours want the same items."""
    nprobe: Annotated[int, Field(gt=0)] = 8
    default_num_items: Annotated[int, Field(gt=0)] = 100
    max_num_items: Annotated[int, Field(gt=0)] = 3000

    def __post_init__(self) -> None:
        distinct = 1 in self.offsets and len(set(self.offsets)) == len(self.offsets) and min(self.offsets) >= 1
        check(distinct, "offsets", self.offsets, "distinct offsets of at least 1, with 1 among them")
