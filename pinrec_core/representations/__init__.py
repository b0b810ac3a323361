"""Things as numbers: ``text_encoder``, hashed ``id_embedding`` tables, ``time_features``, INT8 ``quantization``, and
``item_embedder``, which leads into the one space that items and generated embeddings share.

It may not know sequences, users or losses.
"""
