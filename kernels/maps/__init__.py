"""Maps in the blocked layout: packing, pooling, elementwise operations, coding for the wire."""
