"""Load tests: a mix of requests, arriving at a set rate, from the real client.

``workload`` knows what can be asked of a dataset's service, ``locustfile`` asks it, ``report`` and
``server_statistics`` say how it went; ``python -m load_tests`` runs them together, and so can ``locust`` itself.

They may not know the service but as its clients do.
"""
