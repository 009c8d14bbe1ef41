"""Detect: a detector's outputs become boxes with scores and names; one file per kind of detector."""
