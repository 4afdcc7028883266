"""What every MPI job builds on: the communicator, the clock, the terminal."""
