"""The model: ``collate`` pads histories, ``decoder`` and ``output_head`` are its halves, ``sequence_model`` says what
the rest of the package needs of any model, ``pinrec`` is ours, ``sasrec`` and ``dot_product`` are others, ``variants``
chooses among them and ``device`` says where they run.

It may not know losses, budgets, the index or how it is trained.
"""
