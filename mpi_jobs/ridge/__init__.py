"""The machinery of the ridge jobs on MPI."""
