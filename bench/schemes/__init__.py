"""Auto against every fixed scheme, at the ratios of real boards."""
