"""MPI, and what is said when it ends."""
