"""Runs that compare: one page for a folder of run folders."""
