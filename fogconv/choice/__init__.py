"""Which model, and which plan: what meets limits, and what the noise of the rates leaves open."""
