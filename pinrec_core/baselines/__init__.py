"""What the model has to beat: popularity, item-to-item co-occurrence, SASRec and PinnerFormer.

PinnerFormer has no module: it is ``PinRec`` unconditioned, trained on ``targets.draw_all_actions``.
"""
