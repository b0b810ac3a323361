"""Offline evaluation (PinRec, evaluation): how good are a model's items, beside baselines on the same users?

In reading order::

    cases             who is judged on what: held-out, cold and leave-one-out users
    protocol          a dataset, a protocol and what training kept out: the same for all that are compared
    subjects          a model or a counting baseline, behind the same questions
    opening           a run, a release or the name of a baseline becomes a subject
    judging           the protocol decides which evaluation a subject is put to
    held_out          unordered recall, served recall, diversity, coverage
    unordered_recall  eq. 6 by exact search
    classic           leave one out: HR@10 and NDCG@10
    bootstrap         confidence intervals over users
    result            figures and each user's part in them, on disk
    studies           single questions beside the metrics

It may not know how figures are shown, nor what is worth comparing.
"""
