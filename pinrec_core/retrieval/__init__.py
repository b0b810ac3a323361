"""From queries to items: ``catalogue_vectors`` (what a model makes of every item), ``exact_search`` (what approximate
search is judged against), ``item_index`` (flat or IVF-HNSW), ``lookup`` (a batch's embeddings in few searches),
``item_softmax`` (inner products as probabilities), ``item_segments`` (finds item by item), ``per_outcome``, ``quota``
and ``mixture`` (one list from several) and ``merging`` (all of it, with top-up).

It may not know users, histories or where an embedding came from.
"""
