"""The foundation of every MPI job: the communicator, the clock, the terminal, the exit codes."""
