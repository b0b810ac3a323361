"""What a model has to beat without learning anything: ``popularity`` and ``co_occurrence``, counted in
``sparse_counts``; ``recommender`` says what they have in common.

They answer requests, as a model does, and may not know how they are judged. The baselines that are trained are models:
``SASRec`` is ``model.sasrec``, PinnerFormer is ``PinRec`` unconditioned, trained on ``targets.draw_all_actions``.
"""
