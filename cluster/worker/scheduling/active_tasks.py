"""ActiveTasks: what a worker does now. Runs of several programs overlap; everything else is done alone."""

from __future__ import annotations

from fogconv.cluster.protocol import messages as m
from fogconv.cluster.worker.master_session import MasterSession, Task

DOING: dict[type[m.AnyMessage], str] = {
    m.Run: "running",
    m.Load: "loading",
    m.Weight: "loading",
    m.Unload: "unloading",
    m.Measure: "measuring",
}
"""What a worker does, as its status says it, while a task of this type runs."""


class ActiveTasks:
    """Used under the dispatcher's lock."""

    def __init__(self) -> None:
        self._tasks: list[tuple[MasterSession, m.AnyMessage]] = []

    def __bool__(self) -> bool:
        return bool(self._tasks)

    @property
    def doing(self) -> str:
        """In a word; empty where there is nothing to do."""
        return DOING[type(self._tasks[0][1])] if self._tasks else ""

    def may_begin(self, session: MasterSession) -> bool:
        """Whether the session's next task can begin beside those under way."""
        asked = session.tasks[0][0]
        if not isinstance(asked, m.Run):
            return not self._tasks
        return all(isinstance(other, m.Run) and other.program != asked.program for _, other in self._tasks)

    def begin(self, session: MasterSession) -> Task:
        """The session's next task, which is done from now on."""
        task = session.next()
        self._tasks.append((session, task[0]))
        return task

    def end(self, message: m.AnyMessage) -> None:
        self._tasks = [each for each in self._tasks if each[1] is not message]

    def runs_of(self, session: MasterSession) -> list[int]:
        return [other.run for mine, other in self._tasks if mine is session and isinstance(other, m.Run)]
