#!/usr/bin/python3
"""vmferry beside all that QEMU's own pre-copy offers, for guests that do different things.

Contenders move the same guest over the same link in turns within one run.  Prints a table with
targets for each workload and link; bench/results/ gets all samples as JSON, and plots.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lab"))

from contenders import CONTENDERS, known_options  # noqa: E402
from plan import Plan  # noqa: E402
from plots import draw  # noqa: E402
from subject import LIMIT_S  # noqa: E402
from table import table  # noqa: E402
from workloads import POSTCOPY_ONLY, WORKLOADS  # noqa: E402

PLAN = Plan("workset", CONTENDERS, table=table,
            default_contenders=[name for name in CONTENDERS if name != "vmferry-tls"],
            default_workloads=[name for name in WORKLOADS if name not in POSTCOPY_ONLY],
            default_links=list(LIMIT_S))


def options() -> dict:
    return {"options": {name: known_options(one.options) for name, one in WORKLOADS.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    PLAN.add_arguments(parser)
    record = PLAN.carry_out(parser.parse_args(), options)
    for path in draw(record, LIMIT_S):
        print(f"Plot: {path}")


if __name__ == "__main__":
    main()
