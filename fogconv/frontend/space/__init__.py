"""Operators that change rows and columns, for the rules of every frontend: taps of resizes and paddings, phases of grids."""
