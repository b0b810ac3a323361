"""The model's steps as stages of a pipeline. ``base`` defines the interface of a stage and runs a batch so that one bad
request harms no other; ``metrics`` lists what they measure. ``generator`` and ``faiss_retrieval`` are two of the
stages. The others live with the data that they serve: the signals in ``signal_service``, the ID tables in
``id_embedder``.

A stage knows the tensors of ``contract``; it may not know Triton or the stages before and after it.
"""
