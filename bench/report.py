"""The report: the paper's claims, reproduced from the model. `make report` writes docs/report.

python -m bench.report [FOLDER]

depth.png      S over the depth and the kernel
volumes.png    the volume sent by depth, row and grid partitions, for VGG-16, ResNet-50 and Inception-v3
bounds.png     where the paper's bound and the unicast bound part ways
README.md      the tables, and where the scheme does not pay
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fogconv.errors import FogconvError
from fogconv.hardware.presets import preset, presets
from fogconv.hardware.topology import Topology
from fogconv.hardware.units import show_bandwidth, show_seconds
from fogconv.ir.geometry import ConvSpec
from fogconv.speedup.calculator import Question, report
from fogconv.speedup.conv_tables import convs
from fogconv.speedup.model import Rates, best_n, estimate, least_depth, most_gain, s_paper, splits
from fogconv.speedup.plots import BLUE, GREEN, GREY, ORANGE, PURPLE, new_figure, save

FOLDER = Path(__file__).parent.parent / "docs" / "report"
NETS = ("vgg16", "resnet50", "inception_v3")
RATE_FLOP_PER_S = 10e9
LATENCY_S = 0.5e-3
BANDWIDTHS = (12.5e6, 125e6, 1.25e9)
WORKERS = 4


def rates(bandwidth_bytes_per_s: float = 125e6) -> Rates:
    """The report's device, 10 GFLOP/s, on a link with 0.5 ms per message."""
    return Rates(2 / RATE_FLOP_PER_S, 4 / bandwidth_bytes_per_s, LATENCY_S)


def square(depth: int, kernel: int, size: int = 14) -> ConvSpec:
    before, after = (kernel - 1) // 2, kernel // 2
    return ConvSpec(depth, depth, size, size, (kernel, kernel), padding=(before, after, before, after))


def draw_depth(path: Path) -> None:
    figure = new_figure(9.5, 4.2)
    left, right = figure.subplots(1, 2)
    depths = [16 * 2 ** (step / 2) for step in range(15)]
    for kernel, colour, style in ((1, GREY, ":"), (3, BLUE, "-"), (5, ORANGE, "--"), (7, GREEN, "-.")):
        found = [s_paper(square(round(depth), kernel), rates()) for depth in depths]
        left.plot(depths, found, color=colour, linestyle=style, label=f"K = {kernel}")
    left.axhline(1, color=GREY, linewidth=0.8)
    left.set_xscale("log", base=2)
    left.set_yscale("log")
    left.set_title("S over the depth c = f (14×14)", loc="left", fontsize=10)
    left.set_xlabel("channels")
    total = 512
    shares = [step / 64 for step in range(1, 64)]
    for bandwidth, colour, style in zip(BANDWIDTHS, (GREY, BLUE, ORANGE), (":", "-", "--"), strict=True):
        found = [
            s_paper(
                replace(square(total // 2, 3), in_channels=round(total * s), out_channels=total - round(total * s)),
                rates(bandwidth),
            )
            for s in shares
        ]
        right.plot(shares, found, color=colour, linestyle=style, label=show_bandwidth(bandwidth))
    right.axvline(0.5, color=GREY, linewidth=0.8)
    right.axhline(1, color=GREY, linewidth=0.8)
    right.set_yscale("log")
    right.set_title("S over c/(c+f), c + f = 512, K = 3: greatest at c = f", loc="left", fontsize=10)
    right.set_xlabel("c/(c+f)")
    for axes in (left, right):
        axes.grid(True, color="#e5e5e5", linewidth=0.6)
        axes.legend(fontsize=8)
    save(figure, path, "depth")


def volumes(spec: ConvSpec, n: int) -> tuple[float, float, float, float]:
    """Elements sent for one layer with n workers: output channels, input channels, the best grid, rows with halo.

    From the master to the workers and back. Rows: each worker's rows and the rows around them that the kernel reaches.
    """
    inputs, outputs = spec.input_elements, spec.output_elements
    if spec.groups > 1:
        same = float(inputs + outputs)
        return same, same, same, _rows(spec, n)
    grid = min(split.q * inputs + split.p * outputs for split in splits(spec, n))
    return float(n * inputs + outputs), float(inputs + n * outputs), float(grid), _rows(spec, n)


def _rows(spec: ConvSpec, n: int) -> float:
    reach = spec.dilation[0] * (spec.kernel[0] - 1) + 1 - spec.stride[0]
    parts = min(n, spec.out_height)
    halo = max(0, reach) * (parts - 1) * spec.in_channels * spec.width * spec.batch
    return float(spec.input_elements + halo + spec.output_elements)


def draw_volumes(path: Path) -> list[str]:
    """The figure, and the lines of its table: megabytes per inference and net."""
    lines = [
        f"| net | {WORKERS} workers: output channels | input channels | best grid | rows with halo | once (a broadcast) |",
        "|---|---|---|---|---|---|",
    ]
    figure = new_figure(9.5, 3.4 * len(NETS))
    for axes, net in zip(figure.subplots(len(NETS), 1), NETS, strict=True):
        layers = convs(net)
        found = [volumes(layer.spec, WORKERS) for layer in layers]
        index = range(len(layers))
        names = ("output channels (1×4)", "input channels (4×1)", "best grid", "rows with halo")
        for series, (name, colour, marker) in enumerate(zip(names, (GREY, GREEN, BLUE, ORANGE), "v^o.", strict=True)):
            values = [each[series] * 4 / 1e6 for each in found]
            axes.plot(index, values, color=colour, marker=marker, markersize=4, linewidth=0.8, label=name)
        axes.set_yscale("log")
        axes.set_title(f"{net}: MB per layer through the master's card, {WORKERS} workers", loc="left", fontsize=10)
        axes.grid(True, color="#e5e5e5", linewidth=0.6)
        axes.legend(fontsize=7, ncols=4)
        axes.set_xlabel("conv layer")
        totals = [sum(each[series] for each in found) * 4 / 1e6 for series in range(4)]
        once = sum(layer.spec.input_elements + layer.spec.output_elements for layer in layers) * 4 / 1e6
        lines.append(f"| {net} | " + " | ".join(f"{total:.0f} MB" for total in (*totals, once)) + " |")
    save(figure, path, "volumes")
    return lines


def draw_bounds(path: Path) -> list[str]:
    """S, what at most n workers can gain, and the estimate over n for a deep layer; and the lines of a table."""
    spec = square(512, 3)
    counts = (1, 2, 4, 6, 8, 12, 16, 24, 36, 48, 64)
    figure = new_figure(9.5, 4.2)
    axes = figure.subplots(1, 1)
    lines = ["| n | S | at most | T_local/T_cld |", "|---|---|---|---|"]
    cost = rates()
    bound = s_paper(spec, cost)
    most = [most_gain(spec, cost, n) for n in counts]
    ratio = [estimate(spec, cost, n) for n in counts]
    axes.axhline(bound, color=BLUE, linestyle="--", label="S: a broadcast costs one transmission")
    axes.plot(counts, most, color=PURPLE, linestyle=":", marker=".", label="at most: min(m, S_star(m)) for m ≤ n workers")
    axes.plot(counts, ratio, color=GREEN, marker=".", label="T_local/T_cld, best of up to n workers")
    axes.axhline(1, color=GREY, linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("remote workers n")
    axes.set_title("512→512, 3×3, 14×14 at 10 GFLOP/s and 1 Gbit/s", loc="left", fontsize=10)
    axes.grid(True, color="#e5e5e5", linewidth=0.6)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.legend(fontsize=8)
    save(figure, path, "bounds")
    lines += [f"| {n} | {bound:.1f} | {s:.2f} | {r:.2f} |" for n, s, r in zip(counts, most, ratio, strict=True)]
    best = best_n(spec, cost)
    lines.append("")
    lines.append(
        f"More workers than {best} make it slower: the volume over unicast links grows with q·c + p·f, at best with the "
        "square root of n, while computing shrinks with n only."
    )
    return lines


def pays(bandwidth: float) -> list[str]:
    """A line per net: the gain of the paper's scheme, layer by layer from the master."""
    lines = []
    topology = Topology.uniform(WORKERS + 1, RATE_FLOP_PER_S, bandwidth, LATENCY_S)
    for net in NETS:
        found = report(convs(net), Question(topology)).total()
        lines.append(
            f"| {net} | {show_bandwidth(bandwidth)} | {show_seconds(found['local_s'])} | "
            f"{show_seconds(found['all_distributed_s'])} ({found['speedup_all']:.2f}×) | "
            f"{found['distributed']} of {found['layers']} | {show_seconds(found['chosen_s'])} ({found['speedup']:.2f}×) |"
        )
    return lines


def boards() -> list[str]:
    lines = []
    for name in presets():
        for net in NETS:
            found = report(convs(net), Question(preset(name).topology(WORKERS))).total()
            lines.append(f"| {name} | {net} | {found['distributed']} of {found['layers']} | {found['speedup']:.2f}× |")
    return lines


def boards_verdict() -> str:
    gains = {
        name: max(report(convs(net), Question(preset(name).topology(WORKERS))).total()["speedup"] for net in NETS)
        for name in presets()
    }
    losers = [name for name, gain in gains.items() if gain < 1.05]
    return (
        f"On {_listed(losers)} the paper's scheme gains less than 5 % for every one of these nets: the faster the "
        "processor, the faster the link has to be. "
        "What keeps activations on the workers (`fogconv run --scheme auto`) is another matter."
    )


def rule_of_sixty() -> list[str]:
    lines = ["| link | K = 1 | K = 3 | K = 5 |", "|---|---|---|---|"]
    for bandwidth in BANDWIDTHS:
        cells = []
        for kernel in (1, 3, 5):
            bound = least_depth(rates(bandwidth), (kernel, kernel), 14)
            real = least_depth(rates(bandwidth), (kernel, kernel), 14, n=WORKERS)
            cells.append(f"{bound or 'never'} / {real or 'never'}")
        lines.append(f"| {show_bandwidth(bandwidth)} | " + " | ".join(cells) + " |")
    return lines


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    draw_depth(folder / "depth.png")
    volume_lines = draw_volumes(folder / "volumes.png")
    bound_lines = draw_bounds(folder / "bounds.png")
    head = [
        "# The analytic model, in figures",
        "",
        f"Written by `make report`. Unless said otherwise: devices of {RATE_FLOP_PER_S / 1e9:.0f} GFLOP/s, "
        f"{show_seconds(LATENCY_S)} per message, {WORKERS} workers, only they compute, partitioning and joining free,",
        "batch 1, fp32.",
        "All of it is computed by `fogconv.speedup.model`; [accuracy.md](accuracy.md) says how far it is from measurements.",
        "",
        "## S grows with the depth and with K², and is greatest at c = f",
        "",
        "![S over depth and kernel](depth.png)",
        "",
        "## What travels: depth against rows and grids",
        "",
        "![volumes](volumes.png)",
        "",
        *volume_lines,
        "",
        "Rows with halo send hardly more than every element once, whatever n is, as long as maps are higher than n rows; a",
        "split by output channels sends the whole input to every worker. The best grid lies between, near √n times the",
        "volume of a broadcast. In bytes depth is the better cut only where a broadcast is one transmission, or where maps",
        "are too small to cut into rows.",
        "",
        "## Where the paper's bound and the unicast bound part ways",
        "",
        "![bounds](bounds.png)",
        "",
        *bound_lines,
        "",
        "## Where the scheme pays, and where it does not",
        "",
        "| net | link | at home | all layers out | layers that pay | by the rule (both > 1) |",
        "|---|---|---|---|---|---|",
        *(line for bandwidth in BANDWIDTHS for line in pays(bandwidth)),
        "",
        *verdict(),
        "",
        "Presets, each on the network port that the board has:",
        "",
        "| board | net | layers that pay | gain |",
        "|---|---|---|---|",
        *boards(),
        "",
        boards_verdict(),
        "",
        "## The fixed rule “more than 60 channels”",
        "",
        f"The least depth c = f (14×14) that pays, by S / by the estimate for {WORKERS} workers:",
        "",
        *rule_of_sixty(),
        "",
        "No fixed number of channels is right: what counts is K²·c·γ against α/M + β.",
        "",
    ]
    (folder / "README.md").write_text("\n".join(head), encoding="utf-8")


def verdict() -> list[str]:
    """Sentences about the results, derived from the figures."""
    slow, fast, faster = (
        {
            net: report(convs(net), Question(Topology.uniform(WORKERS + 1, RATE_FLOP_PER_S, bandwidth, LATENCY_S))).total()
            for net in NETS
        }
        for bandwidth in BANDWIDTHS
    )
    nothing = [net for net in NETS if slow[net]["speedup"] < 1.05]
    lines = [
        f"**It does not pay** at {show_bandwidth(BANDWIDTHS[0])} for {_listed(nothing)}: every layer's input and output "
        "pass the master's one network card, which takes longer than computing the layer at home.",
    ]
    for found, bandwidth in ((fast, BANDWIDTHS[1]), (faster, BANDWIDTHS[2])):
        gains = ", ".join(f"{net} {found[net]['speedup']:.2f}×" for net in NETS)
        lines.append(
            f"At {show_bandwidth(bandwidth)} the layers that pay bring {gains}, of {WORKERS}× that {WORKERS} workers could."
        )
    forced = [net for net in NETS if fast[net]["speedup_all"] < 1]
    if forced:
        lines.append(
            f"Sending out *all* layers at {show_bandwidth(BANDWIDTHS[1])} makes {_listed(forced)} slower than one device: "
            "the trigger is what keeps the scheme from losing."
        )
    return lines


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names) or "none of these nets"


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    try:
        write(folder)
    except FogconvError as error:
        print(f"bench.report: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print(f"wrote README.md and three figures to {folder.name}/")


if __name__ == "__main__":
    main()
