"""The CPU service that turns item keys into ID embeddings. The tables themselves are ``pinrec_core.id_embedding``."""
