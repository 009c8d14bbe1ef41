"""Tables, each fitted to the width of the screen."""
