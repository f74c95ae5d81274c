"""``python -m tests.fuzz --mutations 1200``: verdicts on mutations as a table; exit code 1 where one is bad."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.progress import track

from tests.fuzz.pool import run_cases
from tests.fuzz.report import bad_cases, show_table, write_json
from world_models.provenance import describe_hardware, today


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--mutations", type=int, default=1200, help="how many cases")
    parser.add_argument("--seed", type=int, default=0, help="of all mutations")
    parser.add_argument("--out", type=Path, default=None, help="JSON file for every case")
    parser.add_argument("--only", type=int, nargs="+", default=None, help="run these cases alone, with tracebacks")
    parser.add_argument("--target", nargs="+", default=None, help="run cases of these targets alone")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--all", action="store_true", help="list all cases with their messages, not the bad ones alone")
    arguments = parser.parse_args()
    if arguments.only is not None:
        os.environ["FUZZ_LOUD"] = "1"
    numbers = list(range(arguments.mutations)) if arguments.only is None else arguments.only
    if arguments.target is not None:
        from tests.fuzz.case import target_of

        numbers = [number for number in numbers if target_of(number)[0] in arguments.target]
    began = time.monotonic()
    console = Console(width=200 if not sys.stdout.isatty() else None)
    with tempfile.TemporaryDirectory(prefix="fuzz-", ignore_cleanup_errors=True) as folder:
        cases = run_cases(arguments.seed, numbers, Path(folder).resolve(), arguments.workers)
        results = list(
            track(cases, "mutations", len(numbers), console=Console(stderr=True), disable=not sys.stderr.isatty())
        )
    results.sort(key=lambda result: result["number"])
    seconds = round(time.monotonic() - began)
    for result in results if arguments.all or arguments.only is not None else bad_cases(results):
        line = (
            f"{result['number']} {result['target']} | {result['kind']} | {result['mutation']} -> {result['verdict']}: "
        )
        console.print(line + result["message"], markup=False, highlight=False)
    show_table(console, results)
    console.print(f"{seconds} s with {arguments.workers} processes, {describe_hardware()}")
    if arguments.out is not None:
        facts = {"seed": arguments.seed, "date": today(), "hardware": describe_hardware(), "seconds": seconds}
        write_json(arguments.out, results, facts)
    return 1 if bad_cases(results) else 0


if __name__ == "__main__":
    sys.exit(main())
