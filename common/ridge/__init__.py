"""One-vs-all ridge classification on sufficient statistics.

`moments.py` sums, `path.py` solves, `scoring.py` scores, and `fit.py` says what goes into a fit and what comes
out. `model.py` and `moments_file.py` are the only modules here that read and write files.
"""
