"""What a plan must keep to: pinned layers, tensors that stay where they are, cuts, a deadline; and what it is to save."""
