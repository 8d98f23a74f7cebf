"""Pictures of the first seed, as SVG: waits by class, and runs by team. Needs matplotlib."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .scenarios import Result

FLOOR_SECONDS = 0.01
"""Waits below are drawn here: the axis is logarithmic."""

POINTS = 300
"""A curve is drawn through so many of its calls."""


def draw(results: Sequence[Result], folder: Path) -> list[Path]:
    """Write two pictures per scenario. Raises SystemExit without matplotlib."""
    try:
        import matplotlib  # type: ignore[import-not-found]

        matplotlib.use("svg")
        from matplotlib import pyplot
    except ImportError:
        raise SystemExit("pictures need matplotlib: pip install matplotlib") from None
    matplotlib.rcParams["svg.hashsalt"] = "headway"  # the same results give the same file
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for scenario in dict.fromkeys(result.cell.scenario for result in results):
        shown = [result for result in results if result.cell.scenario == scenario]
        for name, paint in (("waits", _waits), ("runs", _runs)):
            figure = paint(pyplot, shown)
            written.append(folder / f"{scenario}-{name}.svg")
            figure.savefig(written[-1], metadata={"Date": None})
            pyplot.close(figure)
    return written


def _waits(pyplot: Any, results: Sequence[Result]) -> Any:
    """The share of calls that waited no longer than so many seconds: a panel per class."""
    classes = list(dict.fromkeys(level for result in results for level in result.waits))
    figure, axes = pyplot.subplots(1, len(classes), figsize=(12, 4), sharey=True, squeeze=False)
    for axis, level in zip(axes[0], classes, strict=True):
        for result in results:
            ordered = sorted(max(FLOOR_SECONDS, wait) for wait in result.waits.get(level, ()))
            last = len(ordered) - 1
            places = sorted({round(last * point / POINTS) for point in range(POINTS + 1)})
            shares = [(place + 1) / len(ordered) for place in places]
            axis.step(
                [ordered[place] for place in places], shares, where="post", label=result.cell.policy
            )
        axis.set(title=level, xscale="log", xlabel="wait, s", ylim=(0, 1.01))
    axes[0][0].set_ylabel("share of calls")
    axes[0][-1].legend()
    figure.tight_layout()
    return figure


def _runs(pyplot: Any, results: Sequence[Result]) -> Any:
    """Mean run of each team, a bar per policy. The heaviest team has a star."""
    teams = sorted({team for result in results for team in result.runs})
    heaviest = results[0].heaviest
    width = 0.8 / len(results)
    figure, axis = pyplot.subplots(figsize=(12, 4))
    for index, result in enumerate(results):
        means = [
            sum(result.runs.get(team, ())) / max(1, len(result.runs.get(team, ())))
            for team in teams
        ]
        places = [place + index * width for place in range(len(teams))]
        axis.bar(places, means, width, label=result.cell.policy)
    labels = [team + (" *" if team == heaviest else "") for team in teams]
    axis.set_xticks([place + 0.4 for place in range(len(teams))], labels)
    axis.set_ylabel("mean run, s")
    axis.legend()
    figure.tight_layout()
    return figure
