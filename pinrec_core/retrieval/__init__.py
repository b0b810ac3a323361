"""From queries to items: ``catalogue_vectors`` (what a model makes of every item), ``item_index`` (IVF-HNSW over them),
``item_softmax`` (inner products as probabilities) and ``merging`` (one list from several).

It may not know users, histories or where an embedding came from.
"""
