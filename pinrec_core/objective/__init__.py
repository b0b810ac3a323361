"""What training minimises (PinRec, objective). In reading order::

    targets           which items a training step predicts, and from which positions
    count_min_sketch  how often an item occurs in the training stream, for log Q
    sampled_softmax   the loss of a target against sampled negatives (eq. 2)
    objective         the loss of one batch, which puts these together

This package may not know optimisers, processes or files.
"""
