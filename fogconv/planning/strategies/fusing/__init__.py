"""Fusing: several layers in a row without a message between them, each rank computing its neighbours' rows itself."""
