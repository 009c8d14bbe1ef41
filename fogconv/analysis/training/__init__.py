"""A step of training on a cluster, predicted."""
