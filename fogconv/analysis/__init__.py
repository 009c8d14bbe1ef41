"""Predicted and measured runs: simulation, predictions, reports, timelines."""
