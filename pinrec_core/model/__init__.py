"""The models (PinRec, model). In reading order::

    sequence_model  what the rest of the project needs from any model
    decoder         the causal transformer with its K/V cache
    output_head     from hidden states to embeddings in item space
    pinrec          the PinRec model
    sasrec          SASRec, a baseline
    dot_product     the pre-training of ID tables
    variants        the model class of a configuration
    collate         from histories to a padded batch, for training
    packed_histories  the same without padding, for generation
    flops           the FLOPs of a forward pass
    device          where a model runs

This package may not know losses, budgets, the index or how a model is trained.
"""
