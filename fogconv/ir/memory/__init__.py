"""Memory: what a program will take on the rank that runs it. The planner and the workers count by the same functions."""
