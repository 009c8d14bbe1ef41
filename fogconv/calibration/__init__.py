"""Measuring devices and links."""
