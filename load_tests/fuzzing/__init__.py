"""Fuzzing: malformed requests against a running service, beside requests whose answers are known.

``messages`` is a request as it travels, however broken; ``valid`` makes right ones for every model that can be called,
from a prepared dataset and from what the stages themselves answer; ``mutations`` breaks them in one place, or makes
random ones; ``neighbours`` asks meanwhile what it knows the answers of; ``processes`` watches the server's processes;
``verdict`` says of every answer whether it is a finding. ``python -m load_tests.fuzzing`` runs them all.

The package knows the service only as its clients do: it imports neither the server nor the model.
"""
