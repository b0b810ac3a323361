"""A prepared log: ``manifest`` (vocabularies and sizes), ``catalogue`` (the items), ``sequences`` (the users'
histories, streamed) and ``splits`` (who and what is held out).

It reads what ``preparation`` and the Spark job wrote and may not know how they made it, nor any model.
"""
