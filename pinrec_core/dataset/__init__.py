"""A prepared log: its ``manifest`` (vocabularies and sizes), its ``catalogue`` of items, its ``sequences`` (the users'
histories, as a stream) and its ``splits`` (which users and interactions are held out).

This package reads what ``preparation`` and the Spark job wrote. It may not know how they did it, nor any model.
"""
