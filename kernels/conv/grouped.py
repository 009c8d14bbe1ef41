"""Groups whose output channels do not start at blocks of 16: summed into a scratch map where they do, then moved lane by
lane."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fogconv.ir.arrays import Array
from fogconv.ir.geometry import BLOCK, ConvSpec
from fogconv.kernels.codegen.isa import Isa
from fogconv.kernels.conv.direct import DirectKernel
from fogconv.kernels.maps.blocked import Blocked, Margin, blocks
from fogconv.kernels.maps.bound import Bound, sequence
from fogconv.kernels.maps.elementwise import bind_affine, bind_permute
from fogconv.kernels.maps.scratch import Scratch


class GroupedKernel:
    """A `DirectKernel` per group into scratch, then a permutation of channels with residual and activation."""

    algorithm = "grouped"
    exact = True

    def __init__(self, direct: DirectKernel, activation: str | None, scratch: Scratch) -> None:
        self._direct, self._activation, self._scratch = direct, activation, scratch
        # Compile what bind() will need: the same steps on maps of one pixel.
        one = [Blocked.empty(1, channels, 1, 1) for channels in (self._wide, self.spec.out_channels, self.spec.out_channels)]
        bind_permute(one[0], one[1], self._channels)
        bind_affine(one[1], one[2], None, None, activation)
        bind_affine(one[1], one[2], None, None, activation, one[2])

    @staticmethod
    def prepare(
        spec: ConvSpec, isa: Isa, weight: Array, bias: Array | None, activation: str | None, scratch: Scratch
    ) -> GroupedKernel:
        return GroupedKernel(DirectKernel.prepare(spec, isa, weight, bias, None), activation, scratch)

    def at(self, spec: ConvSpec, scratch: Scratch | None = None) -> GroupedKernel:
        return GroupedKernel(self._direct.at(spec), self._activation, scratch or self._scratch)

    def moved(self, place: Callable[[Array], Array]) -> GroupedKernel:
        return GroupedKernel(self._direct.moved(place), self._activation, self._scratch)

    def unpack(self) -> tuple[Array, Array | None]:
        return self._direct.unpack()

    @property
    def spec(self) -> ConvSpec:
        return self._direct.spec

    def warm(self, threads: int) -> None:
        """Everything was compiled when the kernel was made."""

    @property
    def wanted_margin(self) -> Margin:
        return self._direct.wanted_margin

    @property
    def weight_bytes(self) -> int:
        return self._direct.weight_bytes

    @property
    def _per_group(self) -> int:
        return self.spec.out_channels // self.spec.groups

    @property
    def _wide(self) -> int:
        """Channels of the scratch map, in which every group starts a new block."""
        return self.spec.groups * blocks(self._per_group) * BLOCK

    @property
    def _channels(self) -> tuple[int, ...]:
        """The place of each output channel in the scratch map."""
        return tuple(
            group * blocks(self._per_group) * BLOCK + channel
            for group in range(self.spec.groups)
            for channel in range(self._per_group)
        )

    def bind(self, x: Blocked, out: Blocked, residual: Blocked | None, thread: int, threads: int) -> Bound:
        """Everything runs on the first thread, because this path is for rare shapes."""
        if thread:
            return nothing
        spec = self.spec
        shape = (spec.batch, self._wide // BLOCK, spec.out_height, spec.out_width, BLOCK)
        size = spec.batch * self._wide * spec.out_height * spec.out_width
        tight = spec.batch * blocks(spec.out_channels) * BLOCK * spec.out_height * spec.out_width
        memory = self._scratch.borrow(size + (tight if residual is not None else 0))
        wide = Blocked(memory[:size].reshape(shape), self._wide, spec.out_height, spec.out_width)
        sums = self._direct.bind(x, wide, None, 0, 1)
        if residual is None:
            steps = [sums, bind_permute(wide, out, self._channels)]
            if self._activation is not None:
                steps.append(bind_affine(out, out, None, None, self._activation))
            return sequence(steps)
        # The residual may be the output itself, so the sum must not be written there first.
        in_order = memory[size:].reshape(shape[0], blocks(spec.out_channels), *shape[2:])
        moved = replace(wide, data=in_order, channels=spec.out_channels)
        return sequence(
            [
                sums,
                bind_permute(wide, moved, self._channels),
                bind_affine(moved, out, None, None, self._activation, residual),
            ]
        )


def nothing() -> None:
    """The share of the other threads, where one thread does everything."""
