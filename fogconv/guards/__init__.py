"""Guards: protection of a layer against wrong, late or missing pieces.

The user asks for a `Protection` (``--verify``, ``--redundancy``, ``--patience``); `check_scheme` and `check_wire` check
what it can guard. Planning gives each layer that can be guarded (`guardable`, the only place that decides this) a
`Guard`: its pieces are then raw, without residual and activation, so that they can be checked, summed and subtracted
(`guard_placement`). The ranks that replace others read the same inputs: `extra_reads` returns these for the layout of
buffers and messages. Lowering writes the layer's work as usual and then calls `gather_pieces`: the pieces are sent to the
master by one Gather step, each with a spare conv that computes the same there, a check (sums of its channels, by summed
filters), or both; one more rank may compute the code, the sum of all pieces. The master's `Gathering` (fogconv.cluster)
takes the pieces as they arrive; a piece that is wrong, lost or later than the patience is replaced by the code minus the
others, or else by the spare's result. To guard another scheme, extend `guardable`, `gather_pieces`, and `extra_reads`
where its reads differ.
"""
