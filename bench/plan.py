"""A run of many moves in turns, that can be ended at any time and gone on with."""

import argparse
import os
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from contenders import Contender
from measure import Sample
from record import Record
from subject import HOSTS, LIMIT_S, Subject
from vmferry_lab import Lab, LabError, Pki, backports_qemu, clean
from workloads import WORKLOADS

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Plan:
    """What a program moves, unless its user wants less."""

    name: str  # of the program; its files begin with it
    contenders: dict[str, Contender]
    default_contenders: list[str]
    default_workloads: list[str]
    default_links: list[str]
    table: Callable[[str, str, dict], str]  # of a workload, a link, and samples by contender
    # Whether a workload says something about a contender.
    suits: Callable[[str, str], bool] = lambda workload, contender: True

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--runs", type=int, default=3, help="moves of each contender")
        for name, choices, default in (
                ("workload", WORKLOADS, self.default_workloads),
                ("link", LIMIT_S, self.default_links),
                ("contender", self.contenders, self.default_contenders)):
            parser.add_argument(
                f"--{name}", choices=choices, action="append",
                help=f"only this one; may be repeated (default: {', '.join(default)})")
        parser.add_argument("--continue", dest="unfinished", type=Path, metavar="FILE",
                            help="make the moves that are missing in this JSON file, of its plan")
        parser.add_argument("--show", type=Path, metavar="FILE",
                            help="print what is in this JSON file, move nothing")

    def carry_out(self, arguments: argparse.Namespace, facts=dict) -> Record:
        """All that was asked for: moves, or shows a file.  *facts()*: more about a run."""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))
        if arguments.show:
            record = Record.load(arguments.show)
            for workload, link in record.pairs():
                print(self.table(workload, link, record.samples(workload, link)))
        else:
            record = self._measure(arguments, facts)
        print(f"\nAll samples: {record.path}")
        return record

    def _measure(self, arguments: argparse.Namespace, facts) -> Record:
        clean()
        record = (Record.load(arguments.unfinished) if arguments.unfinished
                  else self._new_record(arguments, facts))
        try:
            with tempfile.TemporaryDirectory() as folder:
                self._move_all(record, Pki(Path(folder), HOSTS))
        except (LabError, KeyboardInterrupt, SystemExit) as error:
            kept = (f"\nIts moves are kept; go on with --continue {record.path}"
                    if record.moves else "")
            sys.exit(f"{self.name}: {error or 'interrupted'}{kept}")
        return record

    def _new_record(self, arguments: argparse.Namespace, facts) -> Record:
        plan = {"workload": arguments.workload or self.default_workloads,
                "link": arguments.link or self.default_links,
                "contender": arguments.contender or self.default_contenders,
                "runs": arguments.runs}
        load = os.getloadavg()[0]
        print(f"load average before: {load:.2f} on {os.cpu_count()} CPUs", file=sys.stderr)
        path = RESULTS / time.strftime(f"{self.name}-%Y%m%d-%H%M%S.json")
        return Record(path, {"plan": plan, "started": time.strftime("%F %T"),
                             "load_average": load, "cpus": os.cpu_count(),
                             "kernel": os.uname().release, "qemu": backports_qemu().version,
                             **facts()})

    def _moves(self, plan: dict) -> list[tuple[str, str, str, int]]:
        return [(workload, link, contender, number)
                for link in plan["link"] for workload in plan["workload"]
                for number in range(plan["runs"]) for contender in plan["contender"]
                if self.suits(workload, contender)]

    def _move_all(self, record: Record, pki: Pki) -> None:
        """Those that are missing."""
        moves = self._moves(record.facts["plan"])
        for count, move in enumerate(moves, 1):
            workload, link, contender, number = move
            if record.has(*move):
                continue
            print(f"{count}/{len(moves)}: {workload}, {link}: {contender} {number + 1}",
                  file=sys.stderr, flush=True)
            record.add(*move, self._move(workload, link, contender, pki))
            if count == len(moves) or moves[count][:2] != move[:2]:
                print(self.table(workload, link, record.samples(workload, link)), flush=True)

    def _move(self, workload: str, link: str, contender: str, pki: Pki) -> Sample:
        with Lab() as lab:
            lab.link.shape(link)
            subject = Subject(WORKLOADS[workload], link, lab)
            sample = self.contenders[contender].move(lab, subject.guest, subject.prepare, pki,
                                                     subject.workload.options, LIMIT_S[link])
            subject.finish(sample)
            return sample
