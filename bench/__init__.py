"""Benchmarks: the measurements that the documentation quotes, one command each.

`python -m bench.NAME` runs a benchmark; each says in its docstring what it compares. `--check` exits with 1 if a
claim does not hold, and `--json FILE` writes everything that was measured. To add one, write a module whose
`measure()` returns the measurements and a list of `harness.Claim`, and end it as bench/ridge.py ends.
"""
