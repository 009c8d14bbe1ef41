"""mpirun's information for its processes, read without importing MPI."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Launch:
    """This process's rank among those that mpirun started."""

    rank: int
    size: int


def launched(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """Whether mpirun started this process, without importing MPI: Open MPI's variables, or MPICH's; None if neither."""
    for rank, size in (
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
        ("PMI_RANK", "PMI_SIZE"),
        ("PMIX_RANK", "PMIX_SIZE"),
    ):
        try:
            return Launch(int(environment[rank]), int(environment[size]))
        except (KeyError, ValueError):
            continue
    return None


def tolerant(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether mpirun goes on without ranks that die (Open MPI's ``--with-ft ulfm``)."""
    return environment.get("OMPI_MCA_mpi_ft_enable", "").lower() in ("1", "true", "yes")
