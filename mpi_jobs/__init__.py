"""Jobs on MPI, and their parallel algorithms."""
