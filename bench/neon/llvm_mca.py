"""llvm-mca: how many cycles a core needs for a sequence of instructions, by LLVM's model of it. Caches are not modelled."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fogconv.errors import InputError

NAMES = ("llvm-mca-19", "llvm-mca")
UNPACKED = Path(__file__).parents[2] / ".arm64" / "bin" / "llvm-mca"
"""Where tools/setup_arm64.sh leaves it."""

ROUNDS = 20
STAND_IN = "cortex-a57"
"""The model that llvm-mca silently takes for cores of Arm's that it has none for."""

_PROBE = "\n".join(f"fmla v{n}.4s, v30.4s, v31.s[0]" for n in range(8))


@dataclass(frozen=True, slots=True)
class Mca:
    """An llvm-mca on this machine."""

    command: str

    @property
    def version(self) -> str:
        """Its LLVM's version, "19.1.7"."""
        said = subprocess.run([self.command, "--version"], capture_output=True, text=True, check=True).stdout
        match = re.search(r"LLVM version ([\d.]+)", said)
        return match[1] if match else "unknown"

    def knows(self, cpu: str) -> bool:
        """Whether there is a model of this core's own, not only a name that stands for an older core."""
        return cpu == "cortex-a72" or self._total(_PROBE, cpu, ROUNDS) != self._total(_PROBE, STAND_IN, ROUNDS)

    def cycles(self, instructions: Sequence[str], cpu: str) -> float:
        """Cycles per round where the instructions run over and over."""
        text = "\n".join(_standing_alone(instruction) for instruction in instructions)
        rounds = max(2, min(ROUNDS, 20_000 // len(instructions)))
        return (self._total(text, cpu, 2 * rounds) - self._total(text, cpu, rounds)) / rounds

    def _total(self, text: str, cpu: str, rounds: int) -> int:
        command = [self.command, "-mtriple=aarch64", f"-mcpu={cpu}", f"-iterations={rounds}"]
        command += ["-instruction-info=0", "-resource-pressure=0"]
        ended = subprocess.run(command, input=text + "\n", capture_output=True, text=True, check=False)
        match = re.search(r"Total Cycles:\s+(\d+)", ended.stdout)
        if ended.returncode or match is None:
            raise InputError(f"{self.command} can't price this code for {cpu}: {ended.stderr.strip()[:300]}")
        return int(match[1])


def _standing_alone(instruction: str) -> str:
    """The instruction without a name of elsewhere: the cost of a jump does not depend on where to."""
    instruction = re.sub(r"\.L\w+$", "#0", instruction)
    return re.sub(r"^adrp (\w+), .*", r"adr \1, #0", re.sub(r":lo12:[\w.]+", "#0", instruction))


def find() -> Mca:
    """$LLVM_MCA, the one of .arm64, or one on the path. Raises InputError where there is none."""
    for name in filter(None, (os.environ.get("LLVM_MCA"), str(UNPACKED), *NAMES)):
        found = shutil.which(name)
        if found is not None:
            return Mca(found)
    raise InputError(
        "llvm-mca is missing: install Debian's llvm-19, let tools/setup_arm64.sh unpack it into .arm64, or set LLVM_MCA to "
        "its path"
    )
