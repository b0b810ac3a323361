"""A trained model with its index and its settings: it answers requests in process, as the stages do in the service.

It is what a release freezes and what an evaluation judges. Nothing here knows who asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from torch import Tensor

from pinrec_core.config.sections import GenerationConfig
from pinrec_core.dataset.catalogue import ItemCatalogue
from pinrec_core.dataset.manifest import DatasetManifest
from pinrec_core.generation.defaults import default_budget
from pinrec_core.generation.generate import generate
from pinrec_core.generation.inputs import embedded_histories, request_context
from pinrec_core.generation.planning import plan_retrieval
from pinrec_core.generation.program import Generate
from pinrec_core.model.device import torch_device
from pinrec_core.model.sequence_model import SequenceModel
from pinrec_core.release.format import Release
from pinrec_core.release.manifest import Calibration
from pinrec_core.release.programs import load_program
from pinrec_core.representations.id_tables import IdTables
from pinrec_core.request import Request
from pinrec_core.retrieval.item_index import ItemIndex
from pinrec_core.retrieval.merging import MergeRule, RankedItems, merge_rule, retrieve


@dataclass(frozen=True, kw_only=True)
class CompiledGenerator:
    """A program, and the steps and offsets that it was compiled for."""

    generate: Generate
    steps: int
    offsets: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class IndexedModel:
    """Everything between a request and its items. Rows are those of ``catalogue``."""

    model: SequenceModel
    embed_ids: IdTables
    catalogue: ItemCatalogue
    index: ItemIndex
    generation: GenerationConfig
    dataset: DatasetManifest
    calibration: Calibration
    program: CompiledGenerator | None = None  # it generates in place of the model, what it was compiled for

    @staticmethod
    def from_release(release: Release, device: str = "cpu") -> IndexedModel:
        """A release as it is served on this machine: on the CPU with its compiled generator, where one fits."""
        run = load_program(release) if torch_device(device).type == "cpu" else None
        return IndexedModel(
            model=release.load_model(device),
            embed_ids=release.load_id_embedder(),
            catalogue=release.catalogue,
            index=release.index,
            generation=release.manifest.generation,
            dataset=release.manifest.dataset,
            calibration=release.manifest.calibration,
        ).with_program(run)

    def with_program(self, run: Generate | None) -> IndexedModel:
        """The same with a generator that was compiled for its steps and offsets; without one for None."""
        made = run and CompiledGenerator(generate=run, steps=self.generation.steps, offsets=self.generation.offsets)
        return replace(self, program=made)

    @property
    def default_budget(self) -> np.ndarray:
        """What a request without a budget is given: float ``[O]``."""
        return default_budget(self.model.config, self.dataset.outcome_share)

    @cached_property
    def merge(self) -> MergeRule:
        """How the finds of several embeddings become one list."""
        return merge_rule(self.index, self.generation)

    def answer(self, requests: Sequence[Request]) -> list[RankedItems]:
        """At most N distinct items for each of B requests, best first."""
        return self.retrieve(self.generate(requests), requests)

    def generate(self, requests: Sequence[Request]) -> Tensor:
        """The embeddings of B requests, ``[B, O, S·W, D]`` on the model's device."""
        history = embedded_histories(self.model, self.embed_ids, requests)
        context = request_context(requests, self.generation, device=self.model.start_token.device)
        program, wanted = self.program, (self.generation.steps, self.generation.offsets)
        if program is not None and (program.steps, program.offsets) == wanted:
            return program.generate(history, context)
        return generate(self.model, history, context, self.generation.offsets)

    def retrieve(self, embedding: Tensor, requests: Sequence[Request]) -> list[RankedItems]:
        """What the index gives for the embeddings ``[B, O, n, D]`` of B requests."""
        plans = plan_retrieval(embedding, requests, self.generation)
        seen = [request.seen_row for request in requests]
        return retrieve(self.index, plans, seen, overfetch=self.generation.overfetch, merge=self.merge)
