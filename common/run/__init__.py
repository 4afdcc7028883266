"""Flags, exit codes and the run folder, which all jobs share."""
