"""What a network's outputs mean: classes, boxes, masks, text. Pure functions of named arrays, in numpy."""
