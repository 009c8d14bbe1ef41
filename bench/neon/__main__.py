"""Cycles and spills of the aarch64 kernels, by llvm-mca: `python -m bench.neon [--json] [--record]`.

Every loop and tile is emitted as numba emits it, on any machine, and priced by LLVM's model of the core, without its
caches. A whole tile is the sequence of instructions that one call executes (`bench.neon.trace`), over and over: with its
start, its ends of loops, activation and stores. A fused multiply-add is one instruction on 4 floats, so that a Cortex-A72
needs at least 1 cycle for it, and a Neoverse-N1 half a cycle. LLVM has no model of the Cortex-A76 yet: Neoverse-N1 is the
same core for servers, and is given the code that a Cortex-A76 gets.

    python -m bench.neon             the table, beside what was recorded
    python -m bench.neon --record    keep these figures: `make test-arm` fails for a spill in a hot loop, and for more cycles

llvm-mca comes from Debian's llvm-19: `tools/setup_arm64.sh` unpacks it.
"""

from __future__ import annotations

import argparse
import json
import sys

from bench.neon.figures import measure, read_record, recorded_cycles, write_record
from bench.neon.llvm_mca import find
from fogconv.errors import InputError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.neon", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--record", action="store_true", help="keep the figures, for make test-arm")
    options = parser.parse_args(arguments)
    try:
        mca = find()
        figures = measure(mca)
    except InputError as error:
        print(f"bench.neon: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(figures, ensure_ascii=False))
    else:
        before = recorded_cycles(read_record())
        print(f"{'':34}{'core':14}{'cycles per FMA':>16}{'recorded':>10}{'spills':>8}")
        for loop in figures["loops"]:
            was = before.get((loop["name"], loop["cpu"]))
            noted = "–" if was is None else f"{was:.3f}"
            print(f"{loop['name']:34}{loop['cpu']:14}{loop['cycles_per_fma']:16.3f}{noted:>10}{loop['spills']:8}")
        print("Winograd's transforms, cycles per element of a tile and block of 16 channels")
        for tile in figures["transforms"]:
            was = before.get((tile["name"], tile["cpu"]))
            noted = "–" if was is None else f"{was:.3f}"
            print(f"{tile['name']:34}{tile['cpu']:14}{tile['cycles_per_element']:16.3f}{noted:>10}{tile['spills']:8}")
        print(f"llvm-mca {mca.version}")
    if options.record:
        write_record(figures, mca)
    return 0


if __name__ == "__main__":
    sys.exit(main())
