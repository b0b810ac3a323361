"""From a request to the queries of the index: ``inputs`` (what the model reads), ``generate`` (prefill and decode
steps), ``compression`` (near-equal embeddings merge), ``budget`` (quotas that sum to N), ``planning`` (both, for a
batch), ``retrieval_plan`` (what comes out), ``draws`` (what is left to chance), ``defaults`` (what is generated unless
somebody says otherwise) and ``program`` (``generate`` as a module that is exported whole and compiled ahead of time).
On a GPU: ``buckets`` (the sizes that have programs, and how a batch is padded to one), ``static_buffers`` (inputs and
outputs that one copy moves), ``captured`` (generation and compression recorded for each bucket) and ``cuda_graphs``
(how a GPU records).

It may not know the index or what it holds.
"""
