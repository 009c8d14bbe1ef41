"""What a run would take, and what one took: simulation, predictions, reports, timelines."""
