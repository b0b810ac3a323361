"""The studies behind ``docs/results``: every training, every evaluation and every figure of the report.

``python -m benchmarks.quality run yelp && python -m benchmarks.quality report``. In reading order::

    studies/*.toml  what is trained and how it is judged: data, one file per dataset
    study           a study as read from its file
    work_folder     the folders of runs and evaluations, and whether they are what the study asks for
    schedule        distributes pieces of work over worker processes, in the order of their dependencies
    worker          does one piece: a training, or the evaluations of one training
    judge           the only file that knows how PinRec trains and evaluates
    measures        the quantities that are compared, with their confidence intervals
    results         all figures of a study with their comparisons: benchmarks/results/quality/<study>.json
    budgets         the measures of a sweep of budgets
    goals           what a claim is, and whether the figures reach its goal: docs/results/summary.json
    claims          all claims but those of steering_claims, which are about outcomes and budgets
    report          docs/results/README.md, and the headlines of the project's README
    pages, sweeps   docs/results/<study>.md
    steering        docs/results/steering.md
    plots           docs/results/*.svg

The report needs nothing but the JSON files, so it can be made again from a fresh clone.
"""
