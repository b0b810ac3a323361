"""The CPU service that turns item keys into ID embeddings: ``stage`` holds the tables, ``remote_stage`` asks a server
that does.

The tables themselves are ``pinrec_core.representations.id_tables``. Neither may know its callers, Triton or gRPC.
"""
