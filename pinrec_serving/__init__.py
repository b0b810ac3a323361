"""The owner of a Triton process. ``installation`` finds the server, ``runtime`` runs it, ``model_repository`` writes
the models that it loads, and ``deployment`` deploys and swaps releases through ``model_control``, each after a
``smoke_test``. ``front`` runs HAProxy between the clients and Triton, with as much in flight as ``admission`` finds
right. ``supervision`` sees a stage process die (``processes``) or hang, from what that writes as its ``heartbeat``, and
``changes`` brings restarts and swaps into an order. ``service`` puts these together from start to stop, as ``options``
say; ``log_files`` opens logs, ``log_rotation`` keeps them small, and ``companion`` runs a command beside the service,
of which each ends with the other.

``stage_process`` is the other side, the process of one stage, where ``triton_boundary`` translates between Triton and
the stage. There, ``remote_stage`` stands for a stage that runs on another server, whose model ``remote_model`` calls,
and ``stage_metrics`` records what the stage measures. ``stage_files`` reads that in the owner, ``service_metrics`` is
what the owner itself measures, and ``metrics`` serves both with Triton's own. ``logs`` is the format of records on
either side, ``model_names`` how a stage's model is called.

This package may not know what a stage computes, nor the command line.
"""

import os

# Read when gRPC is imported. With its handlers of a fork, some of the programs that the owner starts end before they
# have begun: one in fifty, and one in sixteen while Triton loads a model. None of them goes on using the owner's gRPC.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
