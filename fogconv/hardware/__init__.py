"""Devices and links: topology, host files, profiles, presets, latency models, units."""
