"""What a model generates per user, and under which budget, unless somebody says otherwise. Knows no weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pinrec_core.config.sections import GenerationConfig, ModelConfig
from pinrec_core.errors import ConfigError, require


def default_generation(model: ModelConfig) -> GenerationConfig:
    """Six steps, as in production; a multi-token variant uses every offset that it was trained on."""
    return GenerationConfig(
        steps=min(6, model.max_steps),
        offsets=tuple(range(1, model.max_offset + 1)) if model.variant.multi_token else (1,),
    )


def default_compression_target(model: ModelConfig) -> float:
    """The median ratios that the paper reports: 6 for UC, 3 for {MT,OC}; the others follow their conditioning."""
    return 3.0 if model.variant.outcome_conditioned else 6.0


def default_budget(model: ModelConfig, outcome_share: Sequence[float]) -> np.ndarray:
    """The log's own outcome mix, float ``[O]``, or all on the one condition of an unconditioned model."""
    return np.array(outcome_share if model.num_conditions > 1 else (1.0,), np.float64)


def with_embeddings(
    generation: GenerationConfig,
    model: ModelConfig,
    *,
    embeddings: int | None = None,
    offsets: Sequence[int] | None = None,
) -> GenerationConfig:
    """Settings that generate ``embeddings`` per user in all, E = S·O·W, with the given offsets.

    For fairness between variants E is held constant, so the number of steps follows. A baseline of one embedding
    takes a single step whatever E, and only multi-token variants know offsets beyond the next item. Raises
    ``ConfigError`` when O·W does not divide E, or for offsets or steps beyond what the model was made for.
    """
    if model.variant.one_embedding:
        return replace(generation, steps=1, offsets=(1,))
    if offsets is not None:
        generation = replace(generation, offsets=tuple(offsets) if model.variant.multi_token else (1,))
    require(max(generation.offsets) <= model.max_offset, "offsets", generation.offsets,
            f"none above max_offset={model.max_offset}", error=ConfigError)  # fmt: skip
    if embeddings is None:
        return generation
    per_step = model.num_conditions * len(generation.offsets)
    steps, rest = divmod(embeddings, per_step)
    require(rest == 0 and steps > 0, "embeddings", embeddings,
            f"a multiple of {per_step}: {model.num_conditions} outcomes at {len(generation.offsets)} offsets per step",
            error=ConfigError)  # fmt: skip
    require(steps <= model.max_steps, "embeddings", embeddings,
            f"at most {model.max_steps * per_step}: the model was made for max_steps={model.max_steps}",
            error=ConfigError)  # fmt: skip
    return replace(generation, steps=steps)
