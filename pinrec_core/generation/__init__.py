"""From a request to the queries of the index: ``inputs`` (what the model reads), ``generate`` (prefill and decode
steps), ``compression`` (near-equal embeddings merge), ``budget`` (quotas that sum to N), ``planning`` (both, for a
batch), ``retrieval_plan`` (what comes out), ``defaults`` (what is generated unless somebody says otherwise) and
``program`` (``generate`` as a module that is exported whole and compiled ahead of time).

It may not know the index or what it holds.
"""
