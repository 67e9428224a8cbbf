"""Runs the cells of all repetitions, interleaved, and keeps what each of them said."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bench.catalogue import Cell
from bench.environments import EnvironmentMissing, interpreter_for
from bench.place import Place, Plan
from bench.stage import ROOT, Stage, of_the_product

#: A cell that takes longer is ended and counts as missing.
_CELL_SECONDS = 1800.0


@dataclass
class Results:
    """Figures of each cell, one value per repetition; or why there are none."""

    figures: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    not_offered: dict[str, str] = field(default_factory=dict)

    def add(self, cell: Cell, answer: dict[str, Any]) -> None:
        """What one run of a cell said. A cell that failed once is told of as missing for good."""
        if "figures" in answer:
            kept = self.figures.setdefault(cell.name, defaultdict(list))
            for name, value in answer["figures"].items():
                kept[name].append(float(value))
        elif "not_offered" in answer:
            self.not_offered[cell.name] = str(answer["not_offered"])
        else:
            self.missing[cell.name] = str(answer["missing"])


def run_all(stage: Stage, cells: Sequence[Cell], plan: Plan, repeats: int) -> Results:
    """Cycle through all cells in each repetition, so that a slow minute strikes everybody."""
    results = Results()
    for repeat in range(repeats):
        for cell in cells:
            if repeat >= (cell.repeats or repeats) or _gave_up(results, cell):
                continue
            began = time.monotonic()
            answer = run_one(stage, cell, _scaled(plan, cell.share))
            results.add(cell, answer)
            _say(repeat, repeats, cell, answer, time.monotonic() - began)
    return results


def run_one(stage: Stage, cell: Cell, plan: Plan) -> dict[str, Any]:
    """One cell in a process of its own; never raises for what the cell does."""
    with stage.place_for(cell, plan) as here:
        try:
            python = interpreter_for(cell)
        except EnvironmentMissing as reason:
            return {"missing": str(reason)}
        return _in_process(stage, cell, here, python)


def _in_process(stage: Stage, cell: Cell, here: Place, python: str) -> dict[str, Any]:
    environment = stage.environment(here)
    if not cell.in_peers_environment:
        environment = of_the_product(environment, here)
    answer, log = here.path / "answer.json", here.path / "cell.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [python, "-W", "ignore", "-m", "bench.cell", cell.name, str(answer)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
        try:
            process.wait(_CELL_SECONDS)
        except subprocess.TimeoutExpired:
            return {"missing": f"did not end within {_CELL_SECONDS:g} s"}
        finally:
            _end(process)
    if answer.exists():
        content: dict[str, Any] = json.loads(answer.read_text())
        if "missing" in content:
            print(log.read_text(errors="replace")[-3000:], file=sys.stderr)
        return content
    return {"missing": f"ended with {process.returncode}: {log.read_text(errors='replace')[-600:]}"}


def _end(process: subprocess.Popen[bytes]) -> None:
    """An interrupted cell ends its own workers; what is left is swept with the services."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _gave_up(results: Results, cell: Cell) -> bool:
    return cell.name in results.missing or cell.name in results.not_offered


def _scaled(plan: Plan, share: float) -> Plan:
    return replace(
        plan, jobs=max(50, int(plan.jobs * share)), bulk=max(100, int(plan.bulk * share))
    )


def _say(repeat: int, repeats: int, cell: Cell, answer: dict[str, Any], seconds: float) -> None:
    shown = answer.get("figures") or answer
    drain = shown.get("bulk_drain_per_second", shown.get("drain_per_second"))
    text = f"drain {drain:,.0f}/s" if drain else "done" if "figures" in answer else str(shown)[:200]
    print(
        f"[bench] {repeat + 1}/{repeats} {cell.name}: {text} ({seconds:.0f} s)",
        file=sys.stderr,
        flush=True,
    )
