"""User input: the ranges and units of numbers, files and folders. Options of commands and of Python share them."""
