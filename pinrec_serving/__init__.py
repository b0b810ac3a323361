"""The owner of a Triton process. ``installation`` finds the server, ``runtime`` runs it, ``model_repository`` writes
the models that it loads, and ``deployment`` deploys and swaps releases through ``model_control``. ``service`` puts
these together from start to stop; ``companion`` runs a command beside the service and stops the service when the
command ends. ``triton_boundary`` runs on the other side, in the process of a stage: it translates between Triton and
the stage. There, ``remote_model`` calls a model of another server, and ``stage_metrics`` records what the stage
measures. ``stage_files`` reads that in the owner, ``service_metrics`` is what the owner itself measures, and
``metrics`` serves both with Triton's own. ``logs`` is the format of records on either side, ``model_names`` how a
stage's model is called.

This package may not know what a stage computes, nor the command line.
"""
