"""A synthetic world, for people without a log of their own.

``latent_world`` generates users, items and events, ``synthetic_words`` has the words of titles and queries, and
``synthetic_log`` writes the log. This package may not know how a log is read.
"""
