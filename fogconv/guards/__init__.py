"""Guards: wrong, late or missing pieces of a layer do no harm.

The user asks for a `Protection` (``--verify``, ``--redundancy``, ``--patience``); `check_scheme` and `check_wire` say
what it may guard.
Planning gives each layer that can be guarded (`guardable`, the one place that knows which these are) a `Guard`: its pieces
are then raw, without residual and activation, so that they can be checked, summed and subtracted (`guard_placement`).
The ranks that make up for others read what those read: `extra_reads` says so to whoever lays out buffers and messages.
Lowering writes the layer's work as ever and then calls `gather_pieces`: the pieces go to the master by one Gather step,
each with a spare conv that computes the same there, a check (sums of its channels, by summed filters), or both; one more
rank may compute the code, the sum of all pieces. The master's `Gathering` (fogconv.cluster) takes the pieces as they come;
what is wrong, lost or later than the patience is the code minus the others, or else the spare's result.
Another scheme is guarded by extending `guardable`, `extra_reads` where it reads elsewhere, and `gather_pieces`.
"""
