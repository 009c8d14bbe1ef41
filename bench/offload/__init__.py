"""Layer offload measured: where the planner cuts a network between a slow node and a faster one, over several links."""
