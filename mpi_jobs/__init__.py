"""Jobs and their parallel algorithms on MPI."""
