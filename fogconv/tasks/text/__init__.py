"""Text: where it stands in a picture, and what it says."""
