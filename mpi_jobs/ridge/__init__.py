"""How the ridge jobs go parallel over MPI ranks."""
