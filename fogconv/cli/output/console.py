"""Console: progress on stderr while a command works. It is removed at the end."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from fogconv.analysis.figures import cut

stderr = Console(stderr=True)

BAR = 16
"""Columns: a whole line stays below LINE."""
LINE = 78
"""Columns: a terminal's ^C would break a longer line in two."""


class LoadingBar:
    """A bar while weights are sent and kernels compile. As a context it returns the callback for Session's Progress."""

    def __init__(self, quiet: bool) -> None:
        self._bar: Progress | None = None
        if not quiet and stderr.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(BAR), TextColumn("{task.fields[note]}"), TimeElapsedColumn(),
                console=stderr, transient=True,
            )  # fmt: skip

    def __enter__(self) -> Callable[[Any], None]:
        bar = self._bar
        if bar is None:
            return lambda progress: None
        task = bar.add_task("planning", total=None, note="")
        bar.start()

        def show(progress: Any) -> None:
            bar.update(
                task,
                description=doing(progress),
                total=progress.total_bytes or None,
                completed=progress.shipped_bytes,
                note=so_far(progress),
            )

        return show

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Remove it from the screen. May be called twice, and from another thread, because Ctrl-C may end a run at any
        time."""
        if self._bar is not None:
            self._bar.stop()


def doing(progress: Any) -> str:
    """What a `cluster.session` Progress is waiting for."""
    return "sending weights" if progress.shipped_bytes < progress.total_bytes else "compiling kernels"


def so_far(progress: Any) -> str:
    """What it has done; empty where the master alone prepares itself."""
    if not progress.workers:
        return ""
    return f"{progress.shipped_bytes / 1e6:.1f} MB, {progress.ready} of {progress.workers} workers ready"


class ProgressLine:
    """One line that says what is being done. As a context it returns the function that changes it."""

    def __init__(self, quiet: bool) -> None:
        self._status = None if quiet or not stderr.is_terminal else stderr.status("")

    def __enter__(self) -> Callable[[str], None]:
        status = self._status
        if status is None:
            return lambda text: None
        status.start()
        return lambda text: status.update(cut(text, min(stderr.width, LINE) - 2))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._status is not None:
            self._status.stop()
