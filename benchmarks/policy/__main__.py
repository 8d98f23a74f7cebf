"""Policies beside each other on recorded AutoGen teams, in simulated time, and the bar.

    python -m benchmarks.policy
    python -m benchmarks.policy --seeds 3 --scenarios sat,hi --policies a2,c,ours --plots pictures

The same seed gives every policy the same work. ``--json`` prints the figures of every simulation.
Waits are p50/p95/p99 in seconds; ``figures`` says how each column is measured, ``workload`` and
``provider`` what is simulated.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

from .cost import Cost, costs
from .figures import Figures
from .provider import Charging
from .scenarios import COMPARED, POLICIES, SCENARIOS, Cell, Result, simulate
from .table import bar, cost_rows, marks, rows, spread

WORKERS = 2


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.policy",
        description=__doc__,
        epilog="\n".join(["policies:", *(f"  {n:6}{about}" for n, (about, _) in POLICIES.items())]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--scenarios", default=",".join(SCENARIOS))
    parser.add_argument("--policies", default=",".join(COMPARED))
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--charging", type=Charging, choices=list(Charging), default="openai")
    parser.add_argument("--output-cap", type=int, default=0, help="tokens; 0: none is sent")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="pictures of the first seed")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--no-cost", action="store_true", help="leave out what a decision costs")
    arguments = parser.parse_args()
    for name, known in (("scenarios", SCENARIOS), ("policies", POLICIES)):
        names = getattr(arguments, name).split(",")
        if unknown := [each for each in names if each not in known]:
            parser.error(f"no {', '.join(unknown)} in {name}; there are {', '.join(known)}")
        setattr(arguments, name, names)
    return arguments


def cells(arguments: argparse.Namespace) -> list[Cell]:
    first = arguments.first_seed
    return [
        Cell(
            scenario,
            policy,
            seed,
            arguments.minutes,
            arguments.charging,
            arguments.output_cap,
            arguments.plots is not None and seed == first,
        )
        for scenario in arguments.scenarios
        for seed in range(first, first + arguments.seeds)
        for policy in arguments.policies
    ]


def show(results: Sequence[Result], decision_costs: Sequence[Cost]) -> None:
    found: defaultdict[tuple[str, str], list[Figures]] = defaultdict(list)
    for result in results:
        found[result.block, result.cell.policy].append(result.figures)
    names = list(dict.fromkeys(result.block for result in results))
    blocks = [rows(name, found) for name in names]
    blocks += [spread(name, found) for name in names]
    if decision_costs:
        blocks.append(cost_rows(decision_costs))
    if lines := marks(found, decision_costs):
        blocks.append(bar(lines))
    print("\n\n".join("\n".join(block) for block in blocks))


def main() -> None:
    arguments = parsed()
    start = time.perf_counter()
    # Alone on the machine, before the workers are there.
    decision_costs = [] if arguments.no_cost else costs()
    with ProcessPoolExecutor(WORKERS) as pool:
        results = list(pool.map(simulate, cells(arguments)))
    if arguments.json:
        each = [
            asdict(result.cell) | {"guess": result.guess} | asdict(result.figures)
            for result in results
        ]
        print(json.dumps({"simulations": each, "costs": [asdict(c) for c in decision_costs]}))
    else:
        show(results, decision_costs)
        seconds = time.perf_counter() - start
        print(f"\n{len(results)} simulations of {arguments.minutes:g} minutes in {seconds:.0f} s")
    if arguments.plots is not None:
        from .plots import draw

        draw([result for result in results if result.cell.has_samples], arguments.plots)


if __name__ == "__main__":
    main()
