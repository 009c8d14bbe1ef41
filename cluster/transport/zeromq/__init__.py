"""ZeroMQ: sockets, payloads in chunks, payloads in shared memory."""
