"""Steps that are computed together: band by band (see `fogconv.ir.memory.bands`), or one after the other."""
