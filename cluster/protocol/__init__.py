"""What is said between master and workers, and when: messages, their encoding, the lifecycle, keys. No I/O."""
