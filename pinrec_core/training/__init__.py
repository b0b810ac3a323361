"""Training (PinRec, objective): it streams the batch job's sequences, minimises the objective and writes a run folder.

In reading order::

    start           from configurations to a run folder; refuses what cannot work before the loop runs
    loop            epochs and steps
    batches         from sequences on disk to batches of histories
    optimizer       parameter groups and the schedule of the learning rate
    processes       device, precision and data-parallel processes
    sharded_tables  ID tables whose rows are split over the processes
    checkpoint      what a killed run resumes from
    stop_signals    a stop between two steps after SIGINT or SIGTERM
    validation      the loss on held-out users
    throughput      interactions per second and model FLOPs utilisation
    metrics         the figures of an epoch, and those reported while it runs
    curves          TensorBoard
    run             the finished run: run.json and weights

This package may not know how a run is judged, indexed or served.
"""
