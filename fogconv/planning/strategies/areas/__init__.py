"""Areas: the ways to split a layer in which each rank computes a part of the map's rows, columns or both; a file per
family."""
