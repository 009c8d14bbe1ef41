"""What the matrix runs under mpirun, several models in one launch: ``python -m tests.matrix_program FOLDER``.

The folder holds cells.pickle (a list of cells, with the path of a graph and an input for each); rank 0 writes NUMBER.npy for
each. Worker ranks can't import torch.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np

from fogconv.cluster.connect import connect
from fogconv.cluster.transport.mpi.launch import launched


def main(folder: Path) -> None:
    launch = launched()
    if launch is not None and launch.rank:
        sys.modules["torch"] = None  # type: ignore[assignment]
    with connect("mpi://") as session:
        from tests.matrix import run_cell

        work = pickle.loads((folder / "cells.pickle").read_bytes())
        for number, (cell, graph_path, x) in enumerate(work):
            graph = pickle.loads(Path(graph_path).read_bytes())
            _, output = run_cell(cell, graph, x, session)
            np.save(folder / f"{number}.npy", output)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
