"""The table of a run, its JSON, and the comparison of two: ``python -m tests.fuzz.report before.json after.json``."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.fuzz.verdicts import GOOD, VERDICTS


def write_json(path: Path, results: Sequence[dict[str, Any]], facts: dict[str, Any]) -> None:
    """Every case of a run, with facts about the run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {**facts, "verdicts": Counter(result["verdict"] for result in results), "cases": list(results)}
    path.write_text(json.dumps(content, indent=1) + "\n")


def show_table(console: Console, results: Sequence[dict[str, Any]]) -> None:
    """Verdicts by target."""
    shown, rows = verdict_rows(results)
    table = Table("target", title=f"{len(results)} mutations")
    for verdict in shown:
        table.add_column(verdict, justify="right", style="" if verdict in GOOD else "red")
    for target, counts in rows.items():
        table.add_row(target, *(str(counts[verdict] or "") for verdict in shown))
    console.print(table)


def bad_cases(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those with a bad verdict, by number."""
    return sorted((result for result in results if result["verdict"] not in GOOD), key=lambda result: result["number"])


def verdict_rows(results: Iterable[dict[str, Any]]) -> tuple[list[str], dict[str, Counter[str]]]:
    """The verdicts that occur, and how often each does by target; the last row is of all."""
    rows: dict[str, Counter[str]] = {}
    every: Counter[str] = Counter()
    for result in results:
        rows.setdefault(result["target"], Counter())[result["verdict"]] += 1
        every[result["verdict"]] += 1
    return [verdict for verdict in VERDICTS if every[verdict]], {**dict(sorted(rows.items())), "all": every}


def compare(before: dict[str, Any], after: dict[str, Any]) -> str:
    """A table in Markdown: each number before and after, of the cases that both runs have."""
    both = {case["number"] for case in before["cases"]} & {case["number"] for case in after["cases"]}
    (seen, old), (seen_after, new) = (
        verdict_rows(case for case in run["cases"] if case["number"] in both) for run in (before, after)
    )
    shown = [verdict for verdict in VERDICTS if verdict in (*seen, *seen_after)]
    lines = ["| target | " + " | ".join(shown) + " |", "|---" * (len(shown) + 1) + "|"]
    for target in old:
        cells = [f"{old[target][verdict]} → {new.get(target, Counter())[verdict]}" for verdict in shown]
        lines.append(f"| {target} | " + " | ".join(cells) + " |")
    for name, run in (("before", before), ("after", after)):
        lines.append(f"\n{name}: {len(both)} cases, seed {run['seed']}, {run['date']}, {run['hardware']}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(compare(*(json.loads(Path(file).read_text()) for file in sys.argv[1:3])))
