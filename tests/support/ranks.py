"""Tests that run on every rank of an mpiexec at once."""

from __future__ import annotations

UNDER_MPIEXEC = "TESTS_UNDER_MPIEXEC"
"""Set by who starts these tests: a plain pytest must not start MPI in its own process."""
