"""The executor of workers that compute with torch, on the processor or on a graphics card."""
