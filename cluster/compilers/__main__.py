"""One helper: ``python -m fogconv.cluster.compilers FOLDER THREADS``. It ends when its standard input does."""

from __future__ import annotations

import os
import select
import sys
from pathlib import Path

import msgspec

from fogconv.cluster.compilers.helpers import PROGRAM
from fogconv.cluster.executor.executable import Executable
from fogconv.ir.arrays import blank
from fogconv.ir.program import decode
from fogconv.storage.code_files import CHOICE


def main(folder: Path, threads: int) -> None:
    program = decode((folder / PROGRAM).read_bytes())
    # From the end, while the process that will run it begins at the start.
    program = msgspec.structs.replace(program, steps=program.steps[::-1])
    CHOICE.set(lambda path: not path.exists() and _claimed(folder / path.name))
    Executable(
        program,
        {key: blank(shape, program.weight_types.get(key, "float32")) for key, shape in program.weights.items()},
        threads=threads,
        host=lambda *_: (),
        proceed=_proceed,
    )


def _claimed(claim: Path) -> bool:
    """Whether this helper is the first to claim it. Raises OSError where the folder is gone: the work is done."""
    try:
        os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return False
    return True


def _proceed() -> None:
    """End with the process that started this one."""
    if select.select([sys.stdin], [], [], 0)[0]:
        sys.exit()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
