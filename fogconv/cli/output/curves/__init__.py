"""What is printed of curves: a figure for each of several rates."""
