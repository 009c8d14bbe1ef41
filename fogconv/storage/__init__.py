"""Files that are believed: caches, keys and rates that nobody else could have written."""
