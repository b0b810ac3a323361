"""A synthetic world for people without a log: ``latent_world`` (who likes what, and when), ``synthetic_words`` (how its
items are called) and ``synthetic_log`` (writing what happens in it).

It may not know how a log is read.
"""
