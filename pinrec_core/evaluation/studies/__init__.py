"""Studies beside the metrics, each of one question: ``controllability`` (does a budget steer?), ``budget_sweep`` (what
does it cost?), ``embeddings_per_step`` (what do several per step save?), ``precision`` (what do number formats cost?).
``selection`` takes those that were asked for.

They may not know how their findings are shown.
"""
