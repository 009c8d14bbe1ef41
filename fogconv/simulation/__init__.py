"""The cost model: inferences simulated message by message, and the seconds of layers in a timeline."""
