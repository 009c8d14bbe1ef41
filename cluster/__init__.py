"""The cluster: numpy and one transport library per file."""
