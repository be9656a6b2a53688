#!/usr/bin/python3
"""vmferry beside all that QEMU's own pre-copy offers, for guests that do different things.

Contenders move the same guest over the same link in turns within one run.  Prints a table with
targets for each workload and link; bench/results/ gets all samples as JSON, and plots.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "lab"))

from contenders import CONTENDERS, known_options  # noqa: E402
from measure import Sample  # noqa: E402
from plots import draw  # noqa: E402
from record import Record  # noqa: E402
from subject import HOSTS, LIMIT_S, Subject  # noqa: E402
from table import table  # noqa: E402
from vmferry_lab import Lab, LabError, Pki, backports_qemu, clean  # noqa: E402
from workloads import WORKLOADS  # noqa: E402

DEFAULT_CONTENDERS = [name for name in CONTENDERS if name != "vmferry-tls"]


def run_once(workload: str, link: str, contender: str, pki: Pki) -> Sample:
    with Lab() as lab:
        lab.link.shape(link)
        subject = Subject(WORKLOADS[workload], link, lab)
        sample = CONTENDERS[contender].move(lab, subject.guest, subject.prepare, pki,
                                            subject.workload.options, LIMIT_S[link])
        subject.finish(sample)
        return sample


def run(record: Record, pki: Pki) -> None:
    """Makes the moves of its plan that are missing."""
    plan = record.facts["plan"]
    moves = [(workload, link, contender, number)
             for link in plan["link"] for workload in plan["workload"]
             for number in range(plan["runs"]) for contender in plan["contender"]]
    for count, move in enumerate(moves, 1):
        workload, link, contender, number = move
        if record.has(*move):
            continue
        print(f"{count}/{len(moves)}: {workload}, {link}: {contender} {number + 1}",
              file=sys.stderr, flush=True)
        record.add(*move, run_once(workload, link, contender, pki))
        if count == len(moves) or moves[count][:2] != move[:2]:
            print(table(workload, link, record.samples(workload, link)), flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="moves of each contender")
    for name, choices, default in (("workload", WORKLOADS, list(WORKLOADS)),
                                   ("link", LIMIT_S, list(LIMIT_S)),
                                   ("contender", CONTENDERS, DEFAULT_CONTENDERS)):
        parser.add_argument(f"--{name}", choices=choices, action="append",
                            help=f"only this one; may be repeated (default: {', '.join(default)})")
    parser.add_argument("--continue", dest="unfinished", type=Path, metavar="FILE",
                        help="make the moves that are missing in this JSON file, of its plan")
    parser.add_argument("--show", type=Path, metavar="FILE",
                        help="print and draw what is in this JSON file, move nothing")
    return parser.parse_args()


def new_record(arguments: argparse.Namespace) -> Record:
    plan = {"workload": arguments.workload or list(WORKLOADS),
            "link": arguments.link or list(LIMIT_S),
            "contender": arguments.contender or DEFAULT_CONTENDERS, "runs": arguments.runs}
    load = os.getloadavg()[0]
    print(f"load average before: {load:.2f} on {os.cpu_count()} CPUs", file=sys.stderr)
    path = HERE / "results" / time.strftime("workset-%Y%m%d-%H%M%S.json")
    options = {name: known_options(one.options) for name, one in WORKLOADS.items()}
    return Record(path, {"plan": plan, "started": time.strftime("%F %T"), "load_average": load,
                         "cpus": os.cpu_count(), "kernel": os.uname().release,
                         "qemu": backports_qemu().version, "options": options})


def show(record: Record) -> None:
    for workload, link in record.pairs():
        print(table(workload, link, record.samples(workload, link)))


def measure(arguments: argparse.Namespace) -> Record:
    clean()
    record = Record.load(arguments.unfinished) if arguments.unfinished else new_record(arguments)
    try:
        with tempfile.TemporaryDirectory() as folder:
            run(record, Pki(Path(folder), HOSTS))
    except (LabError, KeyboardInterrupt, SystemExit) as error:
        kept = f"\nIts moves are kept; go on with --continue {record.path}" if record.moves else ""
        sys.exit(f"workset: {error or 'interrupted'}{kept}")
    return record


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))
    arguments = parse_arguments()
    if arguments.show:
        record = Record.load(arguments.show)
        show(record)
    else:
        record = measure(arguments)
    print(f"\nAll samples: {record.path}")
    for path in draw(record, LIMIT_S):
        print(f"Plot: {path}")


if __name__ == "__main__":
    main()
