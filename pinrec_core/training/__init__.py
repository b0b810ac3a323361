"""Training (PinRec, objective): streams the batch job's sequences, minimises the objective, writes a run folder.

In reading order::

    start         from configurations to a run folder; what cannot work is refused before the loop runs
    loop          epochs and steps
    batches       sequences on disk to batches of histories
    optimizer     parameter groups and the schedule of the learning rate
    processes     device, precision and data-parallel processes
    checkpoint    what a killed run resumes from
    stop_signals  a stop between two steps on SIGINT and SIGTERM
    validation    the loss on held-out users
    throughput    interactions per second and model FLOPs utilisation
    metrics       figures of an epoch and of the moment
    curves        TensorBoard
    run           the finished run: run.json and weights

It may not know how a run is judged, indexed or served.
"""
