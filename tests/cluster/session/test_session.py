"""Session and Worker together, with programs made by hand, over in-process queues and over ZeroMQ."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from fogconv.cluster.protocol import codec
from fogconv.cluster.protocol import messages as m
from fogconv.cluster.session.loaded_program import Progress
from fogconv.cluster.session.session import Session
from fogconv.errors import (
    ClusterError,
    ConnectError,
    InputError,
    RefusedError,
    TransportTimeout,
    WorkerFailedError,
    WorkerLostError,
    WorkerMemoryError,
)
from fogconv.ir import steps as ir
from fogconv.ir.geometry import ConvSpec, Region
from fogconv.ir.program import Program
from tests.cluster.cluster_of import KINDS, Cluster, FakeExecutable, InprocCluster, ZeromqCluster, eventually
from tests.cluster.programs import PIECE, ring, star

pytestmark = pytest.mark.alone

X = np.arange(16, dtype=np.float32).reshape(1, 16, 1, 1)
Make = Callable[..., Cluster]


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    made: list[Cluster] = []

    def cluster(count: int = 3, build: Any = FakeExecutable, **options: Any) -> Cluster:
        made.append(KINDS[request.param](count, build, **options))
        return made[-1]

    yield cluster
    for one in made:
        one.close()


def star_of(session: Session, ranks: list[int] | None = None) -> tuple[Any, np.ndarray[Any, Any]]:
    """A loaded star over these ranks, and what it must return for X."""
    ranks = [info.rank for info in session.workers] if ranks is None else ranks
    loaded = session.load(*star(ranks, ranks=session.ranks))
    return loaded, len(ranks) * X + sum(ranks)


def test_the_workers_introduce_themselves(make: Make) -> None:
    cluster = make(3, threads=2, memory_limit_bytes=10**12)
    session = cluster.session()
    assert [info.rank for info in session.workers] == [1, 2, 3]
    assert [info.address for info in session.workers] == cluster.addresses
    for info in session.workers:
        assert info.threads == 2
        assert info.memory_limit_bytes == 10**12
        assert info.memory_bytes > 0
        assert info.isa
        assert info.protocol == m.PROTOCOL_VERSION
        # Here all clocks are one clock.
        assert abs(info.clock_offset_ns) <= info.clock_error_ns + 1


def test_a_star_comes_back_summed(make: Make) -> None:
    session = make(3).session()
    loaded, expected = star_of(session)
    for _ in range(3):
        result = session.run(loaded, [X])
        np.testing.assert_array_equal(result.outputs[0], expected)
    assert result.latency_s > 0
    assert result.sent_bytes == {0: 3 * 64, 1: 64, 2: 64, 3: 64}
    assert result.received_bytes == {0: 3 * 64, 1: 64, 2: 64, 3: 64}


def test_workers_exchange_among_themselves(make: Make) -> None:
    session = make(3).session()
    result = session.run(session.load(*ring([1, 2, 3], rounds=4)), [X])
    np.testing.assert_array_equal(result.outputs[0], X)
    assert result.sent_bytes[0] == 64


def test_large_messages_go_around(make: Make) -> None:
    region = Region.whole(64, 224, 224)
    session = make(2).session()
    x = np.random.default_rng(0).standard_normal((1, *region.shape), np.float32)
    loaded = session.load(*ring([1, 2], region=region))
    for _ in range(2):
        np.testing.assert_array_equal(session.run(loaded, [x]).outputs[0], x)


def test_step_times_come_on_the_masters_clock(make: Make) -> None:
    session = make(2).session()
    before = time.perf_counter_ns()
    result = session.run(session.load(*ring([1, 2])), [X])
    after = time.perf_counter_ns()
    slack = max(info.clock_error_ns for info in session.workers)
    for rank, times in result.times.items():
        assert times.shape[1] == 2, rank
        assert np.all(times[:, 0] <= times[:, 1])
        assert before - slack <= times.min() and times.max() <= after + slack


def test_each_weight_travels_once_and_only_to_whom_it_concerns(make: Make) -> None:
    session = make(3).session()
    programs, weights = star([1, 2, 3])
    assert session.load(programs, weights).shipped_bytes == {1: 16, 2: 16, 3: 16}
    assert session.load(programs, weights).shipped_bytes == {1: 0, 2: 0, 3: 0}


def test_weights_stay_for_the_next_master(make: Make) -> None:
    cluster = make(2)
    programs, weights = star([1, 2])
    with cluster.session() as first:
        first.load(programs, weights)
    second = cluster.session()
    again = second.load(programs, weights)
    assert again.shipped_bytes == {1: 0, 2: 0}
    np.testing.assert_array_equal(second.run(again, [X]).outputs[0], 2 * X + 3)


def test_more_weights_than_the_window_are_shipped_in_turns(make: Make) -> None:
    session = make(2).session()
    programs, weights = star([1, 2])
    rng = np.random.default_rng(0)
    large = [rng.standard_normal((3, 1 << 20), np.float32) for _ in range(4)]
    from fogconv.ir.arrays import weight_key

    more = {weight_key(weight): weight for weight in large}
    programs[1] = Program(**{**_fields(programs[1]), "weights": {key: w.shape for key, w in more.items()}})
    reports: list[Progress] = []
    loaded = session.load(programs, {**weights, **more}, progress=reports.append)
    assert loaded.shipped_bytes == {1: sum(weight.nbytes for weight in large), 2: 16}
    assert reports[0].shipped_bytes == 0
    assert reports[-1] == Progress(reports[-1].total_bytes, sum(loaded.shipped_bytes.values()), 2, 2)


def _fields(program: Program) -> dict[str, Any]:
    return {name: getattr(program, name) for name in program.__struct_fields__}


def test_progress_ends_at_everything(make: Make) -> None:
    session = make(2).session()
    reports: list[Progress] = []
    session.load(*star([1, 2]), progress=reports.append)
    assert reports[-1] == Progress(32, 32, 2, 2)


def test_a_worker_whose_program_is_empty_is_left_out(make: Make) -> None:
    session = make(3).session()
    programs, weights = star([1, 3], ranks=4)
    programs.append(Program(2, 4, 1, (), (), (), {}))
    loaded = session.load(programs, weights)
    assert loaded.ranks == {1, 3}
    np.testing.assert_array_equal(session.run(loaded, [X]).outputs[0], 2 * X + 4)


def test_threads_that_share_a_session_get_their_own_results(make: Make) -> None:
    session = make(3).session()
    loads = [star_of(session), star_of(session, [1, 2]), star_of(session, [3])]

    def work(number: int) -> None:
        loaded, expected = loads[number % 3]
        np.testing.assert_array_equal(session.run(loaded, [X]).outputs[0], expected)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(120)))


def test_submitted_runs_overlap_and_come_right(make: Make) -> None:
    session = make(3).session()
    loads = [session.load(*ring([1, 2, 3], rounds=2)) for _ in range(3)]
    inputs = [X + number for number in range(24)]
    futures = [session.submit(loads[number % 3], [x]) for number, x in enumerate(inputs)]
    for x, future in zip(inputs, futures, strict=True):
        np.testing.assert_array_equal(future.result(60).outputs[0], x)


def test_unloaded_programs_can_not_run(make: Make) -> None:
    session = make(2).session()
    loaded, _ = star_of(session)
    session.unload(loaded)
    session.unload(loaded)
    with pytest.raises(InputError, match="unloaded"):
        session.run(loaded, [X])
    eventually(lambda: all(status.programs == 0 for status in session.status().values()))


def test_weights_that_are_missing_or_misshapen_are_told_before_anything_is_shipped(make: Make) -> None:
    session = make(1).session()
    programs, weights = star([1])
    key = next(iter(weights))
    with pytest.raises(InputError, match=f"weights {key}, which are missing"):
        session.load(programs, {})
    with pytest.raises(InputError, match=r"\(5,\)"):
        session.load(programs, {key: np.zeros(5, np.float32)})
    with pytest.raises(InputError, match="rank 7"):
        session.load(star([7])[0], star([7])[1])


def test_weights_that_are_not_what_their_key_says_are_refused(make: Make) -> None:
    session = make(1).session()
    programs, weights = star([1])
    key = next(iter(weights))
    with pytest.raises(WorkerFailedError, match="content key"):
        session.load(programs, {key: np.full(4, 9, np.float32)})
    loaded, expected = star_of(session)
    np.testing.assert_array_equal(session.run(loaded, [X]).outputs[0], expected)


# Two masters


def test_a_second_master_is_refused_in_a_sentence(make: Make) -> None:
    cluster = make(2)
    first = cluster.session(name="camera-7")
    with pytest.raises(RefusedError, match=r"serving another master.*camera-7"):
        cluster.session()
    loaded, expected = star_of(first)
    np.testing.assert_array_equal(first.run(loaded, [X]).outputs[0], expected)


def test_a_second_master_is_refused_while_the_worker_computes(make: Make) -> None:
    gate = threading.Event()

    class Slow(FakeExecutable):
        def run(self, mailbox: Any, inputs: Any = ()) -> Any:
            assert gate.wait(60)
            return super().run(mailbox, inputs)

    cluster = make(1, build=Slow)
    first = cluster.session()
    loaded, expected = star_of(first)
    run = first.submit(loaded, [X])
    eventually(lambda: cluster.workers[0].life.stage.value == "busy")

    def attend() -> None:
        while not gate.wait(0.02):
            cluster.workers[0].attend()

    attending = threading.Thread(target=attend)
    attending.start()
    with pytest.raises(RefusedError, match="serving another master"):
        cluster.session()
    gate.set()
    np.testing.assert_array_equal(run.result(60).outputs[0], expected)
    attending.join()


def test_the_next_master_is_served_when_the_first_has_left(make: Make) -> None:
    cluster = make(2)
    for _ in range(3):
        with cluster.session() as session:
            loaded, expected = star_of(session)
            np.testing.assert_array_equal(session.run(loaded, [X]).outputs[0], expected)


def test_the_next_master_is_served_when_the_first_was_cut_off(make: Make) -> None:
    cluster = make(1)
    first = cluster.session()
    first._endpoint.close()
    eventually(lambda: cluster.workers[0].life.stage.value == "joining")
    second = cluster.session()
    loaded, expected = star_of(second)
    np.testing.assert_array_equal(second.run(loaded, [X]).outputs[0], expected)


# Loss and failure


def test_a_lost_worker_is_named_and_the_others_go_on(make: Make) -> None:
    cluster = make(3)
    session = cluster.session()
    loaded, _ = star_of(session)
    session.run(loaded, [X])
    cluster.kill(2)
    with pytest.raises(WorkerLostError, match=r"worker 2 at .* is lost") as lost:
        for _ in range(100):
            session.run(loaded, [X])
    assert lost.value.rank == 2
    assert session.lost == {2}
    survivors, expected = star_of(session)
    assert survivors.ranks == {1, 3}
    np.testing.assert_array_equal(session.run(survivors, [X]).outputs[0], expected)
    with pytest.raises(WorkerLostError):
        star_of(session, [1, 2])


def test_workers_that_wait_for_a_lost_one_are_freed(make: Make) -> None:
    cluster = make(3)
    session = cluster.session()
    loaded = session.load(*ring([1, 2, 3]))
    cluster.kill(1)
    with pytest.raises(WorkerLostError):
        session.run(loaded, [X])
    eventually(lambda: all(status.state == "ready" for status in session.status().values()))
    assert len(session.status()) == 2
    again = session.load(*ring([2, 3]))
    np.testing.assert_array_equal(session.run(again, [X]).outputs[0], X)


def test_a_worker_that_returns_is_taken_back(make: Make) -> None:
    cluster = make(2)
    session = cluster.session()
    star_of(session)
    if isinstance(cluster, ZeromqCluster):
        pytest.skip("the same port at once: test_zeromq does it with processes")
    cluster.kill(2)
    eventually(lambda: session.refresh() == {2})
    assert session.rejoin(0.2) == frozenset()
    cluster.add("worker/2")
    assert session.rejoin(60.0) == {2}
    loaded, expected = star_of(session)
    np.testing.assert_array_equal(session.run(loaded, [X]).outputs[0], expected)


def test_a_program_may_be_loaded_that_names_a_lost_rank(make: Make) -> None:
    """But not run: a worker that gets ready may do so for a workers that has changed meanwhile."""
    cluster = make(3)
    session = cluster.session()
    cluster.kill(3)
    eventually(lambda: session.refresh() == {3})
    session.reconnect()
    program = next(program for program in ring([1, 3])[0] if program.rank == 1)
    loaded = session.load([program], {})
    assert loaded.ranks == {1}


def test_a_load_that_takes_long_on_one_rank_holds_up_no_other() -> None:
    reached, go = threading.Event(), threading.Event()
    cluster = InprocCluster(3, FakeExecutable)
    try:
        cluster.workers[2].loader.build = _waits(reached, go)
        session = cluster.session()
        programs, weights = star([3], ranks=4)
        with ThreadPoolExecutor(1) as pool:
            slow = pool.submit(session.load, [programs[1]], weights)
            assert reached.wait(60.0)
            loaded, expected = star_of(session, [1, 2])
            np.testing.assert_array_equal(session.run(loaded, [X]).outputs[0], expected)
            session.unload(loaded)
            assert not slow.done()
            go.set()
            assert slow.result(60.0).ranks == {3}
    finally:
        go.set()
        cluster.close()


def test_who_was_lost_and_is_back_does_not_answer_what_it_was_asked_before() -> None:
    reached, go = threading.Event(), threading.Event()
    cluster = InprocCluster(2, FakeExecutable)
    try:
        cluster.workers[1].loader.build = _waits(reached, go)
        session = cluster.session()
        programs, weights = star([2], ranks=3)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(session.load, [programs[1]], weights)
            assert reached.wait(60.0)
            cluster.kill(2)
            cluster.add("worker/2")
            eventually(lambda: 2 in session.rejoin(0.0))
            with pytest.raises(WorkerLostError, match="worker 2"):
                asked.result(60.0)
            assert session.load([programs[1]], weights).shipped_bytes == {2: 16}
    finally:
        go.set()
        cluster.close()


def test_closing_ends_a_load_that_another_thread_waits_for() -> None:
    reached, go = threading.Event(), threading.Event()
    cluster = InprocCluster(1, _waits(reached, go))
    try:
        session = cluster.session()
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(session.load, *star([1]))
            assert reached.wait(60.0)
            session.close()
            with pytest.raises(WorkerLostError):
                asked.result(60.0)
    finally:
        go.set()
        cluster.close()


def _waits(reached: threading.Event, go: threading.Event) -> Any:
    def build(program: Program, weights: Any, *, threads: int = 1, **_: Any) -> FakeExecutable:
        reached.set()
        assert go.wait(60.0)
        return FakeExecutable(program, weights, threads=threads)

    return build


def test_a_worker_that_is_stopped_says_so(make: Make) -> None:
    cluster = make(2)
    session = cluster.session()
    cluster.workers[0].stop()
    eventually(lambda: session.refresh() == {1})
    with pytest.raises(WorkerLostError, match="it was stopped"):
        session.ping(1)


def test_a_workers_error_is_told_and_the_session_stays_usable(make: Make) -> None:
    class Breaks(FakeExecutable):
        def run(self, mailbox: Any, inputs: Any = ()) -> Any:
            if self.program.layers == ("broken",):
                raise ValueError("no such thing")
            return super().run(mailbox, inputs)

    session = make(2, build=Breaks).session()
    programs, weights = star([1, 2])
    programs[2] = Program(**{**_fields(programs[2]), "layers": ("broken",)})
    with pytest.raises(WorkerFailedError, match=r"worker 2 .* no such thing") as failed:
        session.run(session.load(programs, weights), [X])
    assert failed.value.rank == 2
    loaded, expected = star_of(session)
    np.testing.assert_array_equal(session.run(loaded, [X]).outputs[0], expected)


def test_an_error_on_the_master_frees_the_workers(make: Make) -> None:
    session = make(2).session()
    loaded, expected = star_of(session)
    with pytest.raises(IndexError):
        session.run(loaded, [])
    eventually(lambda: all(status.state == "ready" for status in session.status().values()))
    np.testing.assert_array_equal(session.run(loaded, [X]).outputs[0], expected)


def test_a_message_that_never_comes_is_a_time_out(make: Make) -> None:
    session = make(1).session()
    programs, weights = star([1])
    waiting = Program(**{**_fields(programs[0]), "steps": (ir.Recv(0, 1, PIECE, 1, 999),)})
    loaded = session.load([waiting, programs[1]], weights)
    with pytest.raises(TransportTimeout, match=r"rank 1 .* within 0.2 s"):
        session.run(loaded, [X], timeout_s=0.2)
    eventually(lambda: session.status()[1].state == "ready")


def test_a_shard_beyond_the_memory_limit_is_refused_with_both_figures(make: Make) -> None:
    cluster = make(1, memory_limit_bytes=60_000_000)
    session = cluster.session()
    with pytest.raises(WorkerMemoryError, match=r"needs \d+ MB.*limit of 60 MB"):
        star_of(session)
    assert session.lost == frozenset()


# Measurements


def test_pings_measure_both_directions(make: Make) -> None:
    session = make(1).session()
    begin = time.monotonic()
    times = session.ping(1, 1 << 20)
    both_s = time.monotonic() - begin
    assert 0 < times.there_s < both_s
    assert 0 < times.back_s < both_s
    assert session.ping(1).there_s > 0


def test_workers_time_convs(make: Make) -> None:
    class Timed(FakeExecutable):
        def run(self, mailbox: Any, inputs: Any = ()) -> Any:
            time.sleep(0.002 * self.program.buffers[0].region.shape[0])
            return []

    session = make(2, build=Timed).session()
    specs = [ConvSpec(1, 8, 8, 8, (3, 3)), ConvSpec(16, 8, 8, 8, (1, 1))]
    measured = session.measure(specs)
    assert set(measured) == {1, 2}
    assert 0.001 < measured[1].seconds[0] < measured[1].seconds[1]
    assert measured[2].copy_bytes_per_s > 1e6
    assert set(session.measure(specs, ranks=[2])) == {2}


def test_status_tells_runs_and_bytes(make: Make) -> None:
    session = make(2).session()
    loaded, _ = star_of(session)
    for _ in range(3):
        session.run(loaded, [X])
    status = session.status()
    assert status[1].runs == 3
    assert status[1].sent_bytes == status[1].received_bytes == 3 * 64
    assert status[2].master == session.name


# The end


def test_a_closed_session_says_so(make: Make) -> None:
    session = make(1).session()
    loaded, _ = star_of(session)
    session.close()
    session.close()
    with pytest.raises(ClusterError, match="closed"):
        session.run(loaded, [X])
    with pytest.raises(ClusterError, match="closed"):
        session.ping(1)


def test_an_unreachable_worker_is_named_with_the_time_waited(make: Make) -> None:
    cluster = make(1)
    address = "nowhere" if isinstance(cluster, InprocCluster) else "tcp://127.0.0.1:1"
    with pytest.raises(ConnectError, match=rf"worker 2 at {address} did not answer within [\d.]+ s"):
        cluster.session(addresses=[*cluster.addresses, address], connect_timeout_s=2.0)
    eventually(lambda: cluster.workers[0].life.stage.value == "joining")


def test_unlike_versions_name_both(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The master's frames are patched to another version on their way."""
    cluster = make(1)
    endpoint = cluster.master_endpoint()
    send = endpoint.send

    def older(peer: Any, frames: Any, **_: Any) -> None:
        send(peer, [frames[0][:4] + bytes([99, 0]) + bytes(frames[0][6:]), *frames[1:]])

    monkeypatch.setattr(endpoint, "send", older)
    with pytest.raises(RefusedError, match=rf"version 99.*version {m.PROTOCOL_VERSION}"):
        Session(endpoint, cluster.addresses, connect_timeout_s=60.0)


def test_a_worker_of_another_version_is_named(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = make(1)
    endpoint = cluster.workers[0]._endpoint
    send = endpoint.send

    def newer(peer: Any, frames: Any, **_: Any) -> None:
        send(peer, [frames[0][:4] + bytes([42, 0]) + bytes(frames[0][6:]), *frames[1:]])

    monkeypatch.setattr(endpoint, "send", newer)
    with pytest.raises(RefusedError, match=rf"version 42.*version {m.PROTOCOL_VERSION}"):
        cluster.session()


def test_strangers_get_nowhere(make: Make) -> None:
    """Messages out of order, of others' runs, or from unknown peers change nothing."""
    cluster = make(1)
    stranger = cluster.master_endpoint()
    peer = stranger.connect(cluster.addresses[0])
    session = cluster.session() if isinstance(cluster, ZeromqCluster) else None
    for message in (m.Run(1, 1), m.Abort(1), m.Bye(), m.Unload(1), m.Attach(bytes(16), 0)):
        stranger.send(peer, codec.encode(message))
    stranger.send(peer, codec.encode(m.Data(1, 101), bytes(64)))
    stranger.send(peer, [b"", b"\xff" * 10])
    stranger.send(peer, [b"garbage" * 3])
    if session is not None:
        loaded, expected = star_of(session)
        np.testing.assert_array_equal(session.run(loaded, [X]).outputs[0], expected)
    stranger.close()
