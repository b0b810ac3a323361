"""Load tests: a mix of requests arrives at a given rate, sent by the real client.

``workload`` makes requests from a prepared dataset, ``locustfile`` sends them, ``report`` measures latency and failures
at the client, and ``server_statistics`` reads queue and compute time at the server. ``python -m load_tests`` runs them
all; ``locust`` can run ``locustfile`` alone.

The package knows the service only as its clients do: it imports neither the server nor the model.
"""
