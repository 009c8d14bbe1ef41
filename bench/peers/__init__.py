"""Other runtimes on one device, beside fogconv: same weights, same picture, in turns."""
