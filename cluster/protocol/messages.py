"""Messages: all messages between master and workers, as frozen structs.

    master → worker                       worker → master                  worker → worker
    Hello                                 Welcome | Refused                Attach → Attached | Refused
    Peers, Load, Weight, Unload           Missing, Stored, Loaded, Failed  Data
    Run, Data, Abort                      Data, Done, Failed
    Ping, Measure, StatusQuery, Bye       Pong, Measured, Status

The *payload* of a message are raw frames after the header (see ``codec``). ``request`` numbers are chosen by the master
and returned in the answer; ``run`` numbers increase within a session.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from fogconv.hardware.latency.samples import DeviceLoad
from fogconv.ir.geometry import ConvSpec, MapSpec
from fogconv.ir.memory.algorithm import Vectors
from fogconv.ir.precision.elements import Element, WeightType

PROTOCOL_VERSION = 5
"""Increased by one whenever a message changes; ranks of different versions refuse each other."""

Count = Annotated[int, Meta(ge=0, le=2**62)]
Rank = Annotated[int, Meta(ge=0, le=65535)]
Key = Annotated[str, Meta(min_length=1, max_length=80)]
Text = Annotated[str, Meta(max_length=4096)]
Token = Annotated[bytes, Meta(min_length=16, max_length=16)]
Nanoseconds = Annotated[int, Meta(ge=-(2**62), le=2**62)]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{0,64}$")]


class Message(msgspec.Struct, frozen=True, tag=False, array_like=True, forbid_unknown_fields=True):
    """Common root. Structs are sent as arrays of their fields; the type is in the frame's prelude."""


class Hello(Message, frozen=True):
    """A master opens a session; ``session`` is its secret, which peers must show to attach. ``rank`` is the worker's."""

    session: Token
    rank: Rank
    ranks: Rank
    name: Text
    timeout_s: float


class Machine(Message, frozen=True):
    """What a process may use of which computer (see `fogconv.cluster.worker.machine`).

    Ranks of one ``identity`` share cores. ``device`` stays the same when the computer starts again. ``cpus``: the numbers
    of the cores that the process may run on; ``quota_cores``: how many of them a control group grants, 0 for all.
    """

    identity: Digest = ""
    device: Digest = ""
    cpus: Annotated[tuple[Count, ...], Meta(max_length=8192)] = ()
    quota_cores: Annotated[float, Meta(ge=0, le=8192)] = 0.0


class Welcome(Message, frozen=True):
    """The worker now serves this master. Bytes count the whole process; ``memory_limit_bytes`` 0 means none.

    ``kernels`` is a hash of the kernels' sources and the processor that they are compiled for. ``multiplies``: the elements
    narrower than fp32 of which one of its instructions multiplies several. ``vectors``: by which its kernels' algorithms
    are chosen; None where they are not this project's.
    """

    rank: Rank
    host: Text
    pid: Count
    threads: Count
    memory_limit_bytes: Count
    memory_bytes: Count
    isa: Text
    software: Text
    machine: Machine
    kernels: Digest
    multiplies: tuple[Element, ...] = ()
    vectors: Vectors | None = None


class Refused(Message, frozen=True):
    """A refusal, with the reason as readable text."""

    reason: Text


class Peers(Message, frozen=True):
    """The addresses of the other workers and, with encryption, the public key (z85) that each one must have."""

    addresses: dict[Rank, Text]
    keys: dict[Rank, Text] = {}


class Attach(Message, frozen=True):
    """First message between two workers of a session; Data may follow when Attached, or Refused, has come back."""

    session: Token
    rank: Rank


class Attached(Message, frozen=True):
    """This worker takes Data from the other one now. ``rank`` is its own."""

    rank: Rank


class Load(Message, frozen=True):
    """Prepare a program under this number, of which so many ``runs`` may be asked for at once: they are done one after the
    other.

    *payload*: the program (fogconv.ir.program.encode). Answered by Missing, then, when all weights have arrived, by
    Loaded; or by Failed.
    """

    request: Count
    program: Count
    runs: Count = 1


class Missing(Message, frozen=True):
    """The keys that this worker lacks; it waits for a Weight for each."""

    request: Count
    keys: tuple[Key, ...]


class Weight(Message, frozen=True):
    """*payload*: values of ``dtype``, C order. ``key`` must be their content key."""

    key: Key
    shape: Annotated[tuple[Count, ...], Meta(max_length=8)]
    dtype: WeightType = "float32"


class Stored(Message, frozen=True):
    """A weight arrived and matches its key."""

    key: Key


class Loaded(Message, frozen=True):
    """The program's kernels are compiled and its buffers exist."""

    request: Count
    program: Count
    program_bytes: Count
    memory_bytes: Count
    seconds: float


class Unload(Message, frozen=True):
    program: Count


class Run(Message, frozen=True):
    """Run a loaded program. Runs are done in the order of the requests."""

    run: Count
    program: Count


class Data(Message, frozen=True):
    """*payload*: the data of a Send step."""

    run: Count
    tag: Count


class Done(Message, frozen=True):
    """*payload*: (steps, 2) int64, the worker's perf_counter_ns at the start and end of each step."""

    run: Count
    sent_bytes: Count
    received_bytes: Count


class Failed(Message, frozen=True):
    """A request (or a run, where ``run`` is not 0) failed. ``error`` is the name of one of fogconv's errors."""

    request: Count
    run: Count
    error: Text
    message: Text


class Abort(Message, frozen=True):
    """Abort this run: drop its data, stop waiting for more."""

    run: Count


class Ping(Message, frozen=True):
    """*payload*: any bytes. The Pong returns them if ``echo``, else as many bytes as ``reply_bytes``."""

    request: Count
    echo: bool
    reply_bytes: Count = 0


class Pong(Message, frozen=True):
    """``received_ns`` and ``sent_ns`` are the worker's perf_counter_ns."""

    request: Count
    received_ns: Nanoseconds
    sent_ns: Nanoseconds


class Measure(Message, frozen=True):
    """Time these convs, and then these other steps, with this worker's kernels, each the mean of ``repeats`` warm runs or
    more, and a copy in memory; and, with ``disk_bytes``, how fast so many are read from the disk that it swaps to."""

    request: Count
    specs: Annotated[tuple[ConvSpec, ...], Meta(max_length=1024)]
    repeats: Annotated[int, Meta(ge=1, le=1000)]
    maps: Annotated[tuple[MapSpec, ...], Meta(max_length=256)] = ()
    disk_bytes: Annotated[int, Meta(ge=0, le=1 << 28)] = 0


class Measured(Message, frozen=True):
    """Seconds per conv and other step, in order: the mean run and the fastest one. ``copy_bytes_per_s`` is a large memory
    copy's rate, ``other_cores`` how many of the machine's cores other processes kept busy meanwhile; ``loads`` what the
    device did besides each step; ``read_bytes_per_s`` the disk's rate, 0 where that was not asked for."""

    request: Count
    seconds: tuple[float, ...]
    copy_bytes_per_s: float
    fastest_s: tuple[float, ...]
    other_cores: float
    loads: tuple[DeviceLoad, ...] = ()
    read_bytes_per_s: float = 0.0


class StatusQuery(Message, frozen=True):
    request: Count


class Status(Message, frozen=True):
    """A worker's state. ``load`` is since the last query; throttled is False where the system does not report it.

    ``authenticated``: it knows its masters by their keys; otherwise any process that reaches its port can be one.
    """

    request: Count
    state: Text
    master: Text
    uptime_s: float
    runs: Count
    programs: Count
    weights: Count
    weight_bytes: Count
    memory_bytes: Count
    memory_limit_bytes: Count
    sent_bytes: Count
    received_bytes: Count
    threads: Count
    load: DeviceLoad
    throttled: bool
    authenticated: bool


class Bye(Message, frozen=True):
    """The sender leaves."""


AnyMessage = (
    Hello
    | Welcome
    | Refused
    | Peers
    | Attach
    | Attached
    | Load
    | Missing
    | Weight
    | Stored
    | Loaded
    | Unload
    | Run
    | Data
    | Done
    | Failed
    | Abort
    | Ping
    | Pong
    | Measure
    | Measured
    | StatusQuery
    | Status
    | Bye
)

KINDS: tuple[type[AnyMessage], ...] = AnyMessage.__args__
"""The number of a type in the prelude is its index here."""

PAYLOADS: dict[type[AnyMessage], int] = {Load: 1, Weight: 1, Data: 1, Done: 1, Ping: 1, Pong: 1}
"""How many payload frames a type carries; the others carry none."""
