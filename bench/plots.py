"""Plots of a run: for each link, bars per workload and contender; SVG and PNG."""

import math
import sys
from pathlib import Path

from contenders import CONTENDERS
from record import METRICS, Record, figure, median_of

PANELS = ("total_ms", "wire_bytes", "gap_ms")
TITLES = {"total_ms": "total time, s", "wire_bytes": "bytes on the wire, MB",
          "gap_ms": "longest silence of the\nheartbeat (gap), ms"}
# Told apart by people who see colours differently, too (Okabe and Ito).
COLOURS = {"vmferry": "#d55e00", "vmferry-tls": "#e69f00", "qemu": "#000000",
           "xbzrle": "#0072b2", "xbzrle-half": "#56b4e9", "multifd": "#009e73",
           "auto-converge": "#cc79a7", "relaxed": "#999999"}
GROUP = 0.86     # of the distance between two workloads
SMALLEST = 1e-3  # that is drawn: 0 has no logarithm
LINKS = {"1gbit": "1 Gbit/s", "100mbit": "100 Mbit/s"}


def draw(record: Record, limits_s: dict[str, float]) -> list[Path]:
    """Draws what is in a record, beside its file; the plots."""
    try:
        import matplotlib
    except ImportError:
        print("no plots: python3-matplotlib is not installed (scripts/bootstrap bench)",
              file=sys.stderr)
        return []
    matplotlib.use("Agg")
    paths = []
    for link in dict.fromkeys(link for _, link in record.pairs()):
        chart = _draw_link(record, link, limits_s[link])
        for suffix in (".png", ".svg"):
            paths.append(record.path.with_name(f"{record.path.stem}-{link}{suffix}"))
            chart.savefig(paths[-1], dpi=130)
    return paths


def _draw_link(record: Record, link: str, limit_s: float):
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    samples = {workload: record.samples(workload, link)
               for workload, its_link in record.pairs() if its_link == link}
    names = [name for name in CONTENDERS if any(name in one for one in samples.values())]
    runs = max(len(list_) for one in samples.values() for list_ in one.values())
    chart, axes = plt.subplots(len(PANELS), 1, sharex=True,
                               figsize=(max(7.5, 3 + 1.6 * len(samples)), 9.5))
    for panel, metric in zip(axes, PANELS):
        _draw_panel(panel, metric, samples, names)
    axes[-1].set_xticks(range(len(samples)), samples)
    chart.suptitle(f"Moving a 1 GiB guest over {LINKS[link]}: medians of {runs} moves, lines from least "
                   f"to most\nDNF: did not finish within {limit_s:g} s.  Less is better; "
                   "the scales are logarithmic", fontsize=11)
    chart.legend(handles=[Patch(color=COLOURS[name], label=CONTENDERS[name].label)
                          for name in names], loc="lower center", ncols=4, fontsize=9, frameon=False)
    chart.tight_layout(rect=(0, 0.05, 1, 1))
    return chart


def _short(value: float) -> str:
    """Three digits, never an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _draw_panel(panel, metric: str, samples: dict, names: list[str]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    width = GROUP / len(names)
    scale = METRICS[metric][2]
    panel.set_yscale("log")
    for place, of_workload in enumerate(samples.values()):
        for number, name in enumerate(names):
            x = place - GROUP / 2 + (number + 0.5) * width
            _draw_bar(panel, x, width, of_workload.get(name, []), metric, scale, COLOURS[name])
    panel.set_ylabel(TITLES[metric])
    panel.grid(axis="y", which="major", alpha=0.35)
    panel.grid(axis="y", which="minor", alpha=0.12)
    panel.set_axisbelow(True)
    panel.margins(x=0.02, y=0.12)
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panel.yaxis.set_minor_formatter(NullFormatter())
    panel.spines[["top", "right"]].set_visible(False)


def _draw_bar(panel, x: float, width: float, samples: list, metric: str, scale: float,
              colour: str) -> None:
    median = median_of(samples, metric) if samples else None
    if median is None:
        return
    if math.isinf(median):
        panel.annotate("DNF", (x, 0), (0, 3), xycoords=("data", "axes fraction"),
                       textcoords="offset points", rotation=90, ha="center", va="bottom",
                       fontsize=7, color=colour)
        return
    values = [value / scale for one in samples if math.isfinite(value := figure(one, metric))]
    shown = max(median / scale, SMALLEST)
    panel.bar(x, shown, width * 0.92, color=colour)
    least, most = (max(end(values), SMALLEST) for end in (min, max))
    panel.plot([x, x], [least, most], color="#444444", linewidth=0.9)
    panel.annotate(_short(shown), (x, max(shown, most)), (0, 2), textcoords="offset points", rotation=90,
                   ha="center", va="bottom", fontsize=6.5)
