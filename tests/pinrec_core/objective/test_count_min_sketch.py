"""The error bound of the count-min sketch."""

from __future__ import annotations

import math

import torch

from pinrec_core.objective.count_min_sketch import CountMinSketch


def test_sketch_never_underestimates_and_keeps_its_bound():
    torch.manual_seed(2)
    sketch = CountMinSketch(width=2048, depth=4)
    keys = (torch.rand(50_000) ** 4 * 20_000).long()
    for part in keys.split(1000):
        sketch.update(part)
    distinct, true = keys.unique(return_counts=True)
    estimate = sketch.probability(distinct) * len(keys)
    error = estimate - true
    assert error.min() > -0.5  # the estimate was divided and multiplied in float32
    bound = math.e / 2048 * len(keys)
    assert (error > bound).float().mean() <= math.exp(-4)


def test_the_bound_holds_where_it_is_tight():
    """All counts belong to 700 keys, and the share of each is just above e/width. Another key that collides with one of
    them in every row therefore breaks the bound. With depth 3 or half the width, more than e^−4 of the keys would."""
    sketch = CountMinSketch(width=2048, depth=4)
    sketch.update(torch.arange(700).repeat(10))
    others = sketch.probability(torch.arange(10_000, 60_000))
    broken = others > math.e / 2048
    assert 1 / 700 > math.e / 2048
    assert 0 < broken.float().mean() <= math.exp(-4)
