"""Guards: wrong, late or missing pieces do no harm."""
