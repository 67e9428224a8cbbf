"""``./dev bench``: the platform, its peers and the limits of the machine, in one run.

Asserts nothing about time. Every figure is a median over repetitions with its minimum and maximum.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys

from bench import conditions, options, plots, table
from bench.catalogue import BY_NAME, chosen
from bench.run import run_all
from bench.stage import services
from bench.summary import summarise
from bench.targets import ratios


def main() -> int:
    """Measure what was asked for and print tables.

    The exit code is 1 if a row of ours failed, and 2 for an unknown name. A peer that is missing
    fails nothing.
    """
    said = options.parse()
    if said.list:
        print(options.listing())
        return 0
    try:
        cells = chosen(said.only, quick=said.quick)
    except KeyError as error:
        print(f"[bench] nothing is called {error}; see --list", file=sys.stderr)
        return 2
    plan = options.plan_of(said)
    # As Ctrl-C does: unwinds, so that every process that was started is ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with services() as stage:
        found = conditions.conditions(stage, plan, said.repeats)
        results = run_all(stage, cells, plan, said.repeats)
    found["load_generator"] = "wrk" if shutil.which("wrk") else "own"
    summary = summarise(results.figures)
    named = ratios(summary)
    print(conditions.in_words(found), end="\n\n")
    print(table.report(summary, named, results.missing, results.not_offered))
    document = {
        "conditions": found,
        "figures": summary,
        "ratios": named,
        "missing": results.missing,
        "not_offered": results.not_offered,
    }
    if said.json:
        said.json.write_text(json.dumps(document, indent=2) + "\n")
    if said.plots:
        plots.draw(summary, found, said.plots)
    return int(any(BY_NAME[name].kind == "ours" for name in results.missing))


if __name__ == "__main__":
    sys.exit(main())
