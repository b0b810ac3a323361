"""What a release has to pass before it becomes the current one, beyond that its files are whole and belong together: it
answers requests, its index finds what exact search finds, and it serves users no worse than the current release."""

from __future__ import annotations

import numpy as np

from pinrec_core.errors import ReleaseError
from pinrec_core.release.format import Release
from pinrec_core.release.indexed_model import IndexedModel
from pinrec_core.release.manifest import ReleaseManifest
from pinrec_core.release.sample_requests import sample_requests
from pinrec_core.retrieval.exact_search import exact_top_k, recall

SAMPLED_VECTORS = 256
RECALL_TOLERANCE = 0.02
"""Items of a sample are easier to find than what a model generates, so that their recall is above that of the manifest,
but for the chance of the sample: 256 queries for a hundred items each have a standard error below .005."""
SMOKE_ITEMS = 10
SAME_TASK = ("protocol", "targets_per_user", "num_items", "k", "exclude_seen")
"""What two evaluations must share, as far as either has it, to be compared."""


def measure_recall(release: Release) -> float:
    """The share of what exact search finds that the index finds as well, for a sample of the catalogue's own vectors,
    with the nprobe that serves and at the depth of the calibration."""
    index, depth = release.index, release.manifest.calibration.recall_depth
    rows = np.random.default_rng(0).permutation(len(index))[:SAMPLED_VECTORS]
    query = index.vectors_of(rows)
    k = max(1, min(depth, len(index)))
    return recall(exact_top_k(query, index.blocks(), k), index.search(query, k)[1])


def check_measured_recall(release: Release) -> float:
    """The recall that is measured. Raises ``ReleaseError`` where it is below the one that the manifest claims."""
    measured, claimed = measure_recall(release), release.manifest.calibration.recall
    if measured < claimed - RECALL_TOLERANCE:
        raise ReleaseError(
            f"{release.folder}: the index finds {measured:.3f} of what exact search finds for sampled items, the "
            f"manifest claims {claimed:.3f} for generated queries; expected at most {RECALL_TOLERANCE} less"
        )
    return measured


def check_answers(release: Release) -> None:
    """Answer requests with histories of all lengths, as serving would on this machine's CPU.

    Raises ``ReleaseError`` where an answer is too short, names an item twice, or has a score that is no number.
    """
    serving = IndexedModel.from_release(release)
    wanted = min(SMOKE_ITEMS, len(serving.catalogue))
    requests = sample_requests(serving, num_items=wanted)
    for request, answer in zip(requests, serving.answer(requests), strict=True):
        distinct = len(np.unique(answer.item_row))
        if distinct < wanted or distinct < len(answer.item_row) or not np.isfinite(answer.score).all():
            raise ReleaseError(
                f"{release.folder}: a request with a history of {len(request.history)} gets {distinct} different items "
                f"with scores {answer.score.tolist()}: expected {wanted} with finite scores"
            )


def check_figures(new: ReleaseManifest, current: ReleaseManifest, tolerance: float) -> str:
    """What is said of the figures of ``new`` beside those of the release that is current.

    Raises ``ReleaseError`` where they are worse by more than the share ``tolerance``. Where they cannot be compared,
    the sentence says why.
    """
    if current.headline is None or new.headline is None:
        lacking = current if current.headline is None else new
        return f"figures are not compared: {lacking.release_id} was not judged"
    for field in SAME_TASK:
        got, expected = new.metrics.get(field), current.metrics.get(field)
        if got != expected:
            return f"figures are not compared: {field} is {got!r}, and {expected!r} for {current.release_id}"
    (name, got), (_, expected) = new.headline, current.headline
    if got < (1 - tolerance) * expected:
        raise ReleaseError(
            f"{new.release_id}: {name}={got:.4f}, {expected:.4f} for {current.release_id}, which is current: expected "
            f"at most {tolerance:.1%} less; --accept-worse publishes it all the same, --tolerance allows more"
        )
    return f"{name} {got:.4f}, {expected:.4f} for {current.release_id}"
