"""What an executor does with maps of 16 bits."""
