"""Histories of users, from two sources (PinRec, serving: a Lambda architecture).

``batch_job`` (Spark) and ``batch_view`` hold the events before the end of a batch. ``store``, ``rocksdb_store`` and
``realtime`` hold the events since. ``merge`` and ``user_histories`` make one history of both. ``fetch_stage`` reads it
for a request, and ``ingest_stage`` writes events.

``publishing`` runs the batch job and makes a snapshot of its output (``snapshot_changes``, ``snapshots``);
``current_view`` follows the one that is current while it serves.

This package may know neither the model nor Triton.
"""
