"""PinRec: generative retrieval. The model package: everything from a prepared log to a release, and no server.

A reader of the paper finds its sections in these folders, each of which imports only those above it in this table:

=================  ==============================================================================
words              ``errors``, ``history``, ``ids``, ``contract``, ``request``, ``validation``:
                   what everybody speaks
config, files      settings with their bounds; files and folders that are whole or not there
representations    text, ids and time as numbers; the embedder into the items' space
dataset            a prepared log: its manifest, its items, its sequences, who is held out
model              decoder and head: PinRec, and the baselines that share its form
preparation        a log becomes a dataset
objective          targets, negatives with their correction, sampled softmax (eq. 2, 3 and 5)
generation         prefill, decode steps, compression, the budget's quotas
retrieval          the index, and how the finds of several embeddings become one list
training           a dataset becomes a run
baselines          what counts instead of learning
release            a run becomes a release; a model that answers requests
stages             the same as the stages of a pipeline
evaluation         unordered recall and what else is measured (eq. 6)
simulation         a synthetic world that writes logs
=================  ==============================================================================

It may not know Triton, sockets, the command line or the signal stores. Shapes are written with the letters of
``pinrec_core.contract.DIMENSIONS``.
"""
