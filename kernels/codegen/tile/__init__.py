"""What the code of a tile is made of: its shape, the integers it reads, its arithmetic and its stores."""
