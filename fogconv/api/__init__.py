"""The public Python API: plan a model, compile it for a cluster, run it. `import fogconv` offers these names lazily."""
