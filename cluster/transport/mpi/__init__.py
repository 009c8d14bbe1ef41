"""The MPI transport, and the message at its early end."""
