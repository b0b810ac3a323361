"""What training minimises: ``targets`` to predict, ``count_min_sketch`` for how often an item is a negative,
``sampled_softmax`` (eq. 2) and ``objective``, which puts them together.

It may not know optimisers, processes or files.
"""
