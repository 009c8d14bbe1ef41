"""Steps that are computed band by band: see `fogconv.ir.memory.bands`."""
