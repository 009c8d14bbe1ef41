"""Names: what to say when one is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

FEW = 12
"""So many names are listed in full."""


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """ "net 'vgg61' is not known; did you mean vgg16 or vgg11?"."""
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return f"{what} {name!r} is not known; did you mean {' or '.join(near)}?"
    listed = ", ".join(names[:FEW]) + (", …" if len(names) > FEW else "")
    return f"{what} {name!r} is not known; there are {listed}"
