"""Start and end of the process: MPI ranks, Ctrl-C, exit codes."""
