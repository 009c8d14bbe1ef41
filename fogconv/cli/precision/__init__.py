"""What the command line says about precision."""
