"""The results as text, and the bar. Law of this file: a figure stands beside what it must be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .cost import Cost
from .figures import Figures, highest, lowest, medians
from .scenarios import POLICIES, SCENARIOS

INTERACTIVE, NORMAL, BACKGROUND = range(3)
P99 = 2
Found = Mapping[tuple[str, str], Sequence[Figures]]
"""Figures of every seed, by block and policy."""

HEAD = (
    f"{'policy':6}{'util':>6}{'429s':>8}{'/1000':>7}  "
    f"{'wait int':>14}{'wait norm':>16}{'wait bg':>16}{'longest':>9}  "
    f"{'run int/norm/bg/all':>21}{'died bg':>9}{'others':>8}{'jain':>7}{'makespan':>10}"
)


@dataclass(frozen=True, slots=True)
class Mark:
    """One line of the bar: a figure over the seeds, and the most or least that it may be."""

    name: str
    figure: float
    least: float
    most: float
    bar: float
    is_at_least: bool = False

    @property
    def is_met(self) -> bool:
        return self.figure >= self.bar if self.is_at_least else self.figure <= self.bar


def rows(block: str, found: Found) -> list[str]:
    """One table: medians over the seeds, policies below each other."""
    lines = [f"{block}: {SCENARIOS[block.split()[0]].about}", HEAD]
    lines += [_row(policy, medians(found[block, policy])) for policy in _of(block, found)]
    return lines


def spread(block: str, found: Found) -> list[str]:
    """The figures of the bar, from their least to their most over the seeds."""
    lines = [f"{block}, least .. most over the seeds"]
    for policy in _of(block, found):
        low, high = lowest(found[block, policy]), highest(found[block, policy])
        lines.append(
            f"{policy:6}util {low.utilisation:.3f}..{high.utilisation:.3f}  "
            f"429s/1000 {low.refused_per_1000:.1f}..{high.refused_per_1000:.1f}  "
            f"int p99 {low.waits[INTERACTIVE][P99]:.2f}..{high.waits[INTERACTIVE][P99]:.2f}  "
            f"run {low.run:.0f}..{high.run:.0f}  others {low.others:.0f}..{high.others:.0f}  "
            f"makespan {low.makespan:.3f}..{high.makespan:.3f}  "
            f"longest bg {low.longest_wait[BACKGROUND]:.0f}..{high.longest_wait[BACKGROUND]:.0f}"
        )
    return lines


def marks(found: Found, costs: Sequence[Cost]) -> list[Mark]:
    """The bar, as far as its scenarios and policies were simulated."""
    marks = []
    if ours := found.get(("sat", "ours")):
        marks += [
            _mark("429s per 1,000 calls", [f.refused_per_1000 for f in ours], 1),
            _mark("utilisation", [f.utilisation for f in ours], 0.99, is_at_least=True),
            _mark("makespan / bound", [f.makespan for f in ours], 1.02),
            _mark("interactive p99 wait, s", [f.waits[INTERACTIVE][P99] for f in ours], 0.05),
        ]
        if strict := found.get(("sat", "c")):
            pairs = list(zip(ours, strict, strict=True))
            others = [each.others / rival.others for each, rival in pairs]
            means = [each.run / rival.run for each, rival in pairs]
            marks.append(_mark("other teams' mean run / strict", others, 0.60))
            marks.append(_mark("mean run / strict", means, 0.80))
        if patient := found.get(("sat", "a2")):
            ratios = [each.run / rival.run for each, rival in zip(ours, patient, strict=True)]
            marks.append(_mark("mean run / a2", ratios, 1.0))
    if hi := found.get(("hi", "ours")):
        longest = [f.longest_wait[BACKGROUND] for f in hi]
        marks.append(_mark("hi: longest background wait, s", longest, 1_000))
    if costs:
        marks += [
            _mark(f"us per admission, {costs[-1].depth:,} queued", [costs[-1].admission], 20),
            _mark("us for one in a pass of its own", [costs[-1].alone], 20),
        ]
    return marks


def bar(marks: Sequence[Mark]) -> list[str]:
    """The bar as text: median, least .. most, what it must be, and whether it is."""
    lines = ["the bar (median, least .. most over the seeds)"]
    for mark in marks:
        sign = ">=" if mark.is_at_least else "<="
        met = "met" if mark.is_met else "NOT MET"
        lines.append(
            f"{mark.name:36}{mark.figure:10.3f}  ({mark.least:.3f} .. {mark.most:.3f})"
            f"   {sign} {mark.bar:<8g}{met}"
        )
    return lines


def cost_rows(costs: Sequence[Cost]) -> list[str]:
    """What a decision costs, as text."""
    lines = [
        "microseconds, 1,000 teams",
        f"{'queued':>9}{'alone':>8}{'in 50':>8}{'submit':>8}{'settle':>8}",
    ]
    lines += [
        f"{cost.depth:9,}{cost.alone:8.1f}{cost.admission:8.1f}{cost.submit:8.1f}{cost.settle:8.1f}"
        for cost in costs
    ]
    return lines


def _row(policy: str, f: Figures) -> str:
    waits = ["/".join(_short(wait) for wait in waits) for waits in f.waits]
    runs = "/".join(f"{seconds:.0f}" for seconds in (*f.runs, f.run))
    return (
        f"{policy:6}{f.utilisation:6.3f}{f.refused:8.0f}{f.refused_per_1000:7.0f}  "
        f"{waits[0]:>14}{waits[1]:>16}{waits[2]:>16}{f.longest_wait[BACKGROUND]:9,.0f}  "
        f"{runs:>21}{f.died[BACKGROUND]:9.0%}{f.others:8.0f}{f.jain:7.3f}{f.makespan:10.3f}"
    )


def _short(seconds: float) -> str:
    return f"{seconds:.1f}" if 0.05 <= seconds < 9.95 else f"{seconds:.0f}"


def _of(block: str, found: Found) -> list[str]:
    return [policy for policy in POLICIES if (block, policy) in found]


def _mark(name: str, values: Sequence[float], bar: float, *, is_at_least: bool = False) -> Mark:
    ordered = sorted(values)
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    return Mark(name, middle, ordered[0], ordered[-1], bar, is_at_least)
