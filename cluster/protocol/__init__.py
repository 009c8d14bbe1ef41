"""The protocol of master and workers: messages, their encoding, the lifecycle, keys. No I/O."""
