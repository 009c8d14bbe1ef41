"""Simulation of inferences message by message, and predictions for other hardware."""
