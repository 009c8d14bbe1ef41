"""Hostile: what strangers and peers gone bad can do to real workers, while an honest master infers."""
