"""The CPU service that turns item keys into ID embeddings.

The tables themselves are ``pinrec_core.representations.id_embedding``. The service may not know its callers or Triton.
"""
