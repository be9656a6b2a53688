"""A run in text: for each workload and link a table, ratios and targets."""

import math
from dataclasses import dataclass
from typing import Callable

import targets
from contenders import CONTENDERS, Contender
from record import METRICS, medians
from workloads import MEMORY_MB, WORKLOADS

ALWAYS = ("total_ms", "whole_total_ms", "wire_bytes", "gap_ms", "lost_ms", "downtime_ms",
          "whole_cpu_s")
LATENCIES = ("p50_ms", "p99_ms", "max_ms", "late", "move_p99_ms")
TOUCHES = ("touch_count", "touch_p50_ms", "touch_p99_ms", "touch_max_ms")
WIDTH = 14  # the longest name of a contender, and a space


def _cell(value: float | None, metric: str) -> str:
    if value is None:
        return " " * WIDTH
    if math.isinf(value):
        return f"{'-':>{WIDTH}}"
    scaled = value / METRICS[metric][2]
    return f"{scaled:{WIDTH}.{2 if abs(scaled) < 100 else 0}f}"


def _ratio(us: float | None, them: float | None) -> str:
    if us is None or not them or math.isinf(us) or math.isinf(them):
        return f"{'-':>{WIDTH}}"
    return f"{us / them:{WIDTH}.2f}"


def _columns(figures: dict, always: tuple[str, ...]) -> list[str]:
    """*always*, and what only some guests have."""
    with_latency = any("p99_ms" in row for row in figures.values())
    with_touches = any("touch_p99_ms" in row for row in figures.values())
    return [*always, *(LATENCIES if with_latency else ()), *(TOUCHES if with_touches else ())]


def _head(columns: list[str]) -> str:
    titles = [f"{name} {unit}".strip() for name, unit, _ in (METRICS[one] for one in columns)]
    return f"  {'':32}{'finished':>9}" + "".join(f"{title:>{WIDTH}}" for title in titles)


def ratio_line(title: str, us: dict, them: dict, columns: list[str]) -> str:
    return f"  {title:41}" + "".join(_ratio(us.get(one), them.get(one)) for one in columns)


def _ratios(figures: dict, columns: list[str]) -> list[str]:
    if targets.OURS not in figures:
        return []
    us = figures[targets.OURS]
    lines = []
    if "qemu" in figures:
        lines.append(ratio_line("ratio to QEMU, defaults", us, figures["qemu"], columns))
    names = [targets.best_of(figures, targets.others(figures), one) for one in columns]
    if any(names):
        cells = [_ratio(us.get(one), name and figures[name][one])
                 for one, name in zip(columns, names)]
        lines.append(f"  {'ratio to the best other':41}" + "".join(cells))
        cells = [f"{name or '':>{WIDTH}}" for name in names]
        lines.append(f"  {'which is':41}" + "".join(cells))
    return lines


@dataclass(frozen=True)
class View:
    """What a table is made of."""

    contenders: dict[str, Contender]
    columns: tuple[str, ...]
    ours: tuple[str, ...]
    targets: dict[str, list[targets.Target]]
    ratios: Callable[[dict, list[str]], list[str]]  # lines, of figures and columns


WORKSET = View(CONTENDERS, ALWAYS, (targets.OURS,), targets.TARGETS, _ratios)


def table(workload: str, link: str, samples: dict, view: View = WORKSET) -> str:
    """*samples*: by contender."""
    figures = {name: medians(list_) for name, list_ in samples.items()}
    columns = _columns(figures, view.columns)
    runs = max(len(list_) for list_ in samples.values())
    lines = [f"\n{workload}: {WORKLOADS[workload].does}",
             f"{MEMORY_MB} MiB, link {link}; medians of {runs} moves each\n", _head(columns)]
    for name, row in figures.items():
        done = f"{sum(one.finished for one in samples[name])}/{len(samples[name])}"
        lines.append(f"  {view.contenders[name].label:32}{done:>9}"
                     + "".join(_cell(row.get(one), one) for one in columns))
    ratios = view.ratios(figures, columns)
    lines += ["", *ratios, ""] if ratios else []
    for verdict in targets.verdicts(workload, figures, samples, view.ours, view.targets):
        word = {True: "ok  ", False: "MISS", None: "?   "}[verdict.passed]
        lines.append(f"  {word} {verdict.text}")
    unfinished = {f"{view.contenders[name].label}: {one.reason}" for name, list_ in samples.items()
                  for one in list_ if not one.finished}
    lines += [f"  not finished: {words}" for words in sorted(unfinished)]
    return "\n".join(lines)
