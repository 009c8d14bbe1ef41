"""Tables, each fit to the width of the screen."""
