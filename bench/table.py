"""A run in text: for each workload and link a table, ratios and targets."""

import math

import targets
from contenders import CONTENDERS
from record import METRICS, medians
from workloads import MEMORY_MB, WORKLOADS

ALWAYS = ("total_ms", "whole_total_ms", "wire_bytes", "gap_ms", "lost_ms", "downtime_ms",
          "whole_cpu_s")
LATENCIES = ("p50_ms", "p99_ms", "max_ms", "late", "move_p99_ms")
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


def _columns(figures: dict) -> list[str]:
    with_latency = any("p99_ms" in row for row in figures.values())
    return [*ALWAYS, *(LATENCIES if with_latency else ())]


def _head(columns: list[str]) -> str:
    titles = [f"{name} {unit}".strip() for name, unit, _ in (METRICS[one] for one in columns)]
    return f"  {'':32}{'finished':>9}" + "".join(f"{title:>{WIDTH}}" for title in titles)


def _ratios(figures: dict, columns: list[str]) -> list[str]:
    us = figures[targets.OURS]
    lines = []
    if "qemu" in figures:
        cells = [_ratio(us.get(one), figures["qemu"].get(one)) for one in columns]
        lines.append(f"  {'ratio to QEMU, defaults':41}" + "".join(cells))
    names = [targets.best_of(figures, targets.others(figures), one) for one in columns]
    if any(names):
        cells = [_ratio(us.get(one), name and figures[name][one])
                 for one, name in zip(columns, names)]
        lines.append(f"  {'ratio to the best other':41}" + "".join(cells))
        cells = [f"{name or '':>{WIDTH}}" for name in names]
        lines.append(f"  {'which is':41}" + "".join(cells))
    return lines


def table(workload: str, link: str, samples: dict) -> str:
    """*samples*: by contender."""
    figures = {name: medians(list_) for name, list_ in samples.items()}
    columns = _columns(figures)
    runs = max(len(list_) for list_ in samples.values())
    lines = [f"\n{workload}: {WORKLOADS[workload].does}",
             f"{MEMORY_MB} MiB, link {link}; medians of {runs} moves each\n", _head(columns)]
    for name, row in figures.items():
        done = f"{sum(one.finished for one in samples[name])}/{len(samples[name])}"
        lines.append(f"  {CONTENDERS[name].label:32}{done:>9}"
                     + "".join(_cell(row.get(one), one) for one in columns))
    if targets.OURS in figures:
        lines += ["", *_ratios(figures, columns), ""]
    for verdict in targets.verdicts(workload, figures, samples):
        word = {True: "ok  ", False: "MISS", None: "?   "}[verdict.passed]
        lines.append(f"  {word} {verdict.text}")
    unfinished = {f"{CONTENDERS[name].label}: {one.reason}" for name, list_ in samples.items()
                  for one in list_ if not one.finished}
    lines += [f"  not finished: {words}" for words in sorted(unfinished)]
    return "\n".join(lines)
