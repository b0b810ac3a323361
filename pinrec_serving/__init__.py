"""The owner of a Triton process: ``installation`` finds the server, ``runtime`` runs it, ``model_repository`` writes
what it loads, ``deployment`` swaps releases, ``service`` is the life of it all, ``companion`` a command that ends
with it. ``triton_boundary`` is the other side: what a stage's process knows of Triton.

It may not know what a stage computes, nor the command line.
"""
