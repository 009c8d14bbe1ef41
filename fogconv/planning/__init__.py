"""LayerGraph and Topology become a Plan."""
