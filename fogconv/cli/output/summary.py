"""Summary: a run's times and events in at most a dozen lines, and a line for each rank of a few."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fogconv.analysis.figures import byte_count, cut, milliseconds
from fogconv.analysis.workload import RankWork
from fogconv.cli.output.ellipsis import fold
from fogconv.cli.output.result import Result, SharedMachine
from fogconv.frontend.zero_channels import sentence
from fogconv.planning.plan_options import PlanOptions

MOST_LINES = 12
LABEL = 12
"""Columns of the labels."""
MOST_NAMED = 8
"""The most workers with a line each; in a larger cluster one line is for all."""


@dataclass(frozen=True, slots=True)
class Item:
    """``most``: lines that its text may take if there is room; items with the least ``rank`` get it first."""

    label: str
    text: str
    most: int = 1
    rank: int = 0


def summary_lines(result: Result, width: int, *, alone: bool = False) -> list[str]:
    """No more than MOST_LINES and a line per rank, none wider than ``width``. ``alone``: mpirun started one rank only."""
    items = list(_items(result, alone))
    items += _events(result.events, MOST_LINES - len(items))
    folded = [fold(item.text, width - LABEL, item.most) for item in items]
    spare = MOST_LINES - len(items)
    lines = {}
    for index in sorted(range(len(items)), key=lambda index: items[index].rank):
        more = min(spare, len(folded[index]) - 1)
        spare -= more
        lines[index] = fold(items[index].text, width - LABEL, 1 + more)
    shown = []
    for index, item in enumerate(items):
        if item.label == "scheme":
            shown += [f"{name:{LABEL}}{cut(text, width - LABEL)}" for name, text in _ranks(result)]
        shown += [f"{'' if number else item.label:{LABEL}}{line}" for number, line in enumerate(lines[index])]
    return shown


def _ranks(result: Result) -> Iterator[tuple[str, str]]:
    """A line of what each rank did, where work was distributed among a few."""
    if len(result.ranks) > 1 + MOST_NAMED or not any(rank.share for rank in result.ranks if rank.rank):
        return
    for rank in result.ranks:
        name = f"worker {rank.rank}" if rank.rank else "master"
        if not rank.convs and not rank.sent_bytes:
            yield name, "nothing"
            continue
        convs = f"{rank.convs} conv{'' if rank.convs == 1 else 's'}"
        yield (
            name,
            f"{100 * rank.share:.0f} % of the work, {convs}, {milliseconds(rank.computing_s) or 0} ms busy, "
            f"{milliseconds(rank.waiting_s) or 0} waiting, {_bytes(rank.sent_bytes)} sent",
        )


def _items(result: Result, alone: bool) -> Iterator[Item]:
    yield Item("model", f"{result.model}, weights: {result.weights}", most=2 if result.weights_are_random else 1, rank=3)
    yield Item("latency", _latency(result))
    if result.baseline_latency_s is not None and result.max_abs_error is not None:
        speedup = result.baseline_latency_s / result.latency_s
        yield Item("alone", f"{_ms(result.baseline_latency_s)} in {result.baseline} on the master: speedup {speedup:.2f}")
        yield Item(
            "difference",
            f"at most {result.max_abs_error:.2e} from {result.baseline}'s output, "
            f"whose values reach {result.max_abs_reference:.3g}",
        )
    if result.work is not None and not any(_ranks(result)):
        yield Item("work", shares(result.work.shares), most=2, rank=2)
        yield Item("traffic", _traffic(result.work.sent_bytes, result.wire))
    if any(rank.read_bytes for rank in result.ranks):
        yield Item("from disk", _from_disk(result.ranks), most=2, rank=2)
    if result.precision is not None:
        yield Item("precision", result.precision.sentence, most=2, rank=2)
    if result.slower:
        yield Item("", result.slower, most=2, rank=2)
    if result.zero_channels:
        yield Item("pruned", sentence(result.zero_channels), most=2, rank=2)
    yield Item("scheme", _scheme(result))
    yield Item("cluster", _cluster(result, alone), most=2, rank=0)
    if result.outlook is not None:
        there = result.outlook
        yield Item(
            "simulated",
            f"{there.ranks} such computers on {there.bits_per_s / 1e9:g} Gbit/s: {_ms(there.together_s)}; "
            f"one alone: {_ms(there.alone_s)} ({there.alone_s / there.together_s:.2f}×)",
        )
    if result.frames_per_s is not None:
        yield Item("stream", f"{result.job.stream} frames, several in flight: {result.frames_per_s:.2f} frames/s")


def _events(events: Sequence[str], room: int) -> list[Item]:
    """The events, at least a line each; if there is no room for all, the number of the others."""
    if len(events) <= room:
        shown = list(events)
    elif room > 1:
        shown = [*events[: room - 1], f"and {len(events) - room + 1} more, in --json"]
    else:
        shown = [f"{len(events)}, in --json"]
    return [Item("" if number else "events", text, MOST_LINES, 4 + number) for number, text in enumerate(shown)]


def _latency(result: Result) -> str:
    runs = len(result.runs_s) or result.job.repeat
    text = f"{_ms(result.latency_s)}, median of {runs} warm run{'s' if runs > 1 else ''}"
    if runs > 1 and result.runs_s:
        least, most = (_ms(seconds).removesuffix(" ms") for seconds in (min(result.runs_s), max(result.runs_s)))
        text = f"{_ms(result.latency_s)}, median of {runs} warm runs ({least} to {most})"
    return text if result.predicted_s is None else f"{text}; predicted {_ms(result.predicted_s)}"


def shares(part_of: Mapping[int, float]) -> str:
    """ "master 34 %, worker 1 33 %, worker 2 33 % of the multiply-adds"; a large cluster's workers together."""
    master = f"master {100 * part_of.get(0, 0.0):.0f} %"
    workers = {rank: part for rank, part in part_of.items() if rank}
    if workers and not any(workers.values()):
        return f"{master} of the multiply-adds, {'the worker' if len(workers) == 1 else 'workers'} none"
    if len(workers) <= MOST_NAMED:
        each = [master, *(f"worker {rank} {100 * part:.0f} %" for rank, part in workers.items())]
        return f"{', '.join(each)} of the multiply-adds"
    least, most = 100 * min(workers.values()), 100 * max(workers.values())
    return f"{master}, {len(workers)} workers {least:.1f} to {most:.1f} % each of the multiply-adds"


def _scheme(result: Result) -> str:
    out, every = sum(layer.distributed for layer in result.layers), len(result.layers)
    if not out:
        return f"{result.scheme}: all {every} convolutions stay on the master"
    some = f"all {every} convolutions" if out == every else f"{out} of {every} convolutions"
    return f"{result.scheme}: {some} distributed" + _forced(result.scheme, result.job.plan_options)


def _forced(scheme: str, options: PlanOptions) -> str:
    if scheme != "star":
        return ""
    if options.parts is not None:
        return f", into {options.parts} parts by --parts {options.parts}"
    if options.split is not None:
        return f", cut by --split {options.split}"
    return ", forced by --threshold 0" if options.threshold == 0 else ""


def _traffic(sent_bytes: float, wire: str) -> str:
    if not sent_bytes:
        return "nothing sent"
    about = "" if wire in ("fp32", "fp16", "bf16") else "about "  # the others depend on the values
    return f"{about}{_bytes(sent_bytes)} sent between the ranks per inference, as {wire}"


def _from_disk(ranks: Sequence[RankWork]) -> str:
    reading = sorted((rank for rank in ranks if rank.read_bytes), key=lambda rank: -rank.read_bytes)
    each = [f"{f'worker {rank.rank}' if rank.rank else 'master'} {_bytes(rank.read_bytes)}" for rank in reading]
    more = f" and {len(each) - MOST_NAMED} more" if len(each) > MOST_NAMED else ""
    return f"weights read per inference: {', '.join(each[:MOST_NAMED])}{more}"


def _bytes(count: float) -> str:
    """ "4.7 MB"."""
    text = byte_count(count)
    return f"{text} B" if text[-1].isdigit() else f"{text[:-1]} {text[-1]}B"


def _cluster(result: Result, alone: bool) -> str:
    if alone:
        return "mpirun started one rank (-n 1): the master runs alone"
    if not result.workers:
        return "the master alone"
    workers = "1 worker" if result.workers == 1 else f"{result.workers} workers"
    way = result.cluster.partition("://")[0] if "://" in result.cluster else cut(result.cluster, 30)
    text = f"1 master + {workers}"
    text += " in this process" if way == "inproc" else f" over {way}"
    shared = [_sharing(machine) for machine in result.machines]
    if any(machine.by_all for machine in result.machines):
        return f"{text} {shared[0]}: no gain"
    return "; ".join([text, *shared])


def _sharing(machine: SharedMachine) -> str:
    cores = f"{machine.cores:g} core{'' if machine.cores == 1 else 's'}"
    if machine.by_all:
        return f"share one machine's {cores}"
    names = ", ".join(str(rank) for rank in machine.ranks if rank)
    workers = f"worker{'s' if len(machine.ranks) - (0 in machine.ranks) > 1 else ''} {names}"
    return f"{'the master and ' if 0 in machine.ranks else ''}{workers} share {machine.host}'s {cores}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.{1 if seconds < 0.99995 else 0}f} ms"
