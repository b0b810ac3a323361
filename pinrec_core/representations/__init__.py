"""How inputs become numbers: ``text_encoder`` for texts, ``id_embedding`` for ids, ``time_features`` for times,
``quantization`` for content vectors, and ``item_embedder``, which maps all of them to the space of items and generated
embeddings.

This package may not know sequences, users or losses.
"""
