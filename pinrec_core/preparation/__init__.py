"""Turns an event log into a prepared dataset. Read the modules in this order.

==============  ===================================================================================
schema          describes a log: the dataset TOML and its presets
reader          reads the mapped columns of Parquet and CSV files as record batches
columns         converts one raw column to typed values and marks the rows that it cannot use
quarantine      writes the rows that are set aside, and counts them
items           reads the items file: catalogue rows and the texts of query items
validation      splits one batch of raw rows into valid events and faults
staging         streams the log once and splits its valid events by user, on disk
events          removes repeats and duplicates, one partition of users at a time, and writes the event files
features        computes the content vectors of items and queries
prepare         runs all of this in order: ``prepare_dataset``
append          adds a further piece of the log to a prepared dataset: ``append_events``
report          counts the rows that were read, kept, collapsed and set aside
==============  ===================================================================================

This package may know neither models nor the Spark job that makes sequences of the event files.
"""
