"""Offline evaluation (PinRec, evaluation).

In reading order::

    cases                who is judged on what: held-out, cold and leave-one-out users
    user_embeddings      what serving would generate for them
    recommender          what a counting baseline is
    subjects             a model or a baseline, behind the same questions
    setting              one dataset and protocol for all subjects; opens and judges them
    held_out             unordered recall, served recall, diversity, coverage
    unordered_recall     eq. 6 by exact search
    served               the whole path for N items
    classic              leave one out: HR@10 and NDCG@10
    controllability      all budget on one outcome, against a reference
    budget_sweep         the budget moved from one outcome to another
    embeddings_per_step  offsets per step at a constant total
    precision            serving's number formats against FP32
    bootstrap            confidence intervals over users
    result               figures and each user's part in them, on disk
"""
