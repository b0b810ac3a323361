"""The studies behind ``docs/results``: every training, every evaluation and every figure of the report.

``python -m benchmarks.quality run yelp && python -m benchmarks.quality report``. In reading order::

    studies/*.toml  what is trained and how it is judged: data, one file per dataset
    study           a study as read from its file
    work_folder     where runs and evaluations lie, and whether they are what the study asks for
    schedule        pieces of work over worker processes, in the order of their dependencies
    worker          one piece: a training, or the evaluations of one training
    judge           the only file that knows how PinRec trains and evaluates
    measures        what is compared, with its confidence interval
    results         all figures of a study with their comparisons: benchmarks/results/quality/<study>.json
    claims          what was promised, beside what was measured: docs/results/summary.json
    report          docs/results/README.md
    pages, sweeps   docs/results/<study>.md
    plots           docs/results/*.svg

The report needs nothing but the JSON files, so a fresh clone can make it again.
"""
