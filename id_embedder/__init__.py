"""The CPU service that turns item keys into ID embeddings.

The tables themselves are ``pinrec_core.representations.id_embedding``. It may not know who asks, nor Triton.
"""
