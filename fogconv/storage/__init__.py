"""Trusted files: caches, keys and rates that no other user could have written."""
