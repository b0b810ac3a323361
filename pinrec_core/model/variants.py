"""The model class of a variant. Only this module chooses between PinRec and models of another architecture."""

from __future__ import annotations

from pinrec_core.config.sections import ModelConfig, Variant
from pinrec_core.errors import ConfigError
from pinrec_core.model.dot_product import DotProduct
from pinrec_core.model.pinrec import PinRec
from pinrec_core.model.sasrec import SASRec
from pinrec_core.model.sequence_model import ItemModel, SequenceModel


def trainable_model(config: ModelConfig) -> ItemModel:
    """A model with fresh weights."""
    return DotProduct(config) if config.variant is Variant.DOT_PRODUCT else generative_model(config)


def generative_model(config: ModelConfig) -> SequenceModel:
    """A model with fresh weights that can be evaluated, released and served.

    Raises ``ConfigError`` for a variant that only pre-trains ID tables.
    """
    if config.variant is Variant.DOT_PRODUCT:
        raise ConfigError(
            "variant='dot_product': expected a model that generates; this one pre-trains ID tables for "
            "`pinrec train --id-tables`"
        )
    return SASRec(config) if config.variant is Variant.SASREC else PinRec(config)
