"""The model's steps as stages of a pipeline: ``base`` says what a stage is and runs a batch so that one bad request
harms no other; ``generator`` and ``faiss_retrieval`` are two of them. The others live with what they serve: the
signals in ``signal_service``, the ID tables in ``id_embedder``.

A stage may not know Triton or the stages before and behind it, only the tensors of ``contract``.
"""
