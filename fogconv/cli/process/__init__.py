"""How the process starts and ends: MPI ranks, Ctrl-C, exit codes."""
