"""From an event log to a prepared dataset. Read in this order.

==============  ===================================================================================
schema          what the log looks like: the dataset TOML and its presets
reader          parquet and CSV files as record batches of the mapped columns
columns         one raw column to typed values, with what is wrong in each row
quarantine      where bad rows go, and their counts
items           the items file: catalogue rows and the texts of query items
validation      one batch of raw rows to valid events and faults
staging         stream the log once, split valid events by user on disk
events          one user partition at a time: repeats, duplicates, the final event files
features        content vectors of items and queries
prepare         all of it in order: ``prepare_dataset``
report          what was read, kept, collapsed and set aside
==============  ===================================================================================

It may not know models, nor how sequences are made of what it writes: that is the Spark job's.
"""
