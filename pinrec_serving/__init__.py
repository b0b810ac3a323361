"""The owner of a Triton process. ``installation`` finds the server, ``runtime`` runs it, ``model_repository`` writes
the models that it loads, and ``deployment`` deploys and swaps releases through ``model_control``. ``service`` puts
these together from start to stop; ``companion`` runs a command beside the service and stops the service when the
command ends. ``triton_boundary`` runs on the other side, in the process of a stage: it translates between Triton and
the stage. There, ``remote_model`` calls a model of another server.

This package may not know what a stage computes, nor the command line.
"""
