"""Who is simulated, and where. Law of this file: tables, and how one cell of them is run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from .figures import Figures, heaviest_team, measure, seconds_of
from .ours import variants
from .provider import Budget, Charging
from .rivals import Patient, SdkDefault, Window
from .workload import HI, SAT, Mix, make
from .world import Contender, World

Make = Callable[[World, Budget], Contender]


POLICIES: Mapping[str, tuple[str, Make]] = {
    "a1": ("each client alone, SDK default", lambda world, _: SdkDefault(world)),
    "a2": ("each client alone, patient", lambda world, _: Patient(world)),
    "b": ("sliding window, FIFO", Window),
    **variants(),
}
COMPARED = ("a1", "a2", "b", "c", "ours")
"""What is simulated if nobody says; the others are parts of ours."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A provider and its work.

    ``guesses``: what we believe its limits to be, over what they are; each seed has one of them.
    """

    about: str
    mix: Mix = SAT
    budget: Budget = field(default_factory=Budget)
    guesses: tuple[float, ...] = (1.0,)


SCENARIOS: Mapping[str, Scenario] = {
    "sat": Scenario("load 1.3"),
    "hi": Scenario("load 1.4, interactive and normal alone above the budget", HI),
    "burst10": Scenario("load 1.3, a burst of 10 s", budget=Budget(burst_seconds=10)),
    "refused-count": Scenario(
        "load 1.3, 120 RPM, refused requests count",
        budget=Budget(requests_per_minute=120, refused_count=True),
    ),
    "unknown-limits": Scenario(
        "load 1.3, limits believed to be 0.25 to 4 times what they are",
        guesses=(0.25, 0.5, 2.0, 4.0),
    ),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One simulation to make: a scenario, a policy and a seed."""

    scenario: str
    policy: str
    seed: int
    minutes: float
    charging: Charging = Charging.OPENAI
    output_cap: int = 0
    has_samples: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """Figures of one simulation. Samples, for pictures: waits by class, seconds of runs by team."""

    cell: Cell
    guess: float
    figures: Figures
    waits: Mapping[str, tuple[float, ...]]
    runs: Mapping[str, tuple[float, ...]]
    heaviest: str

    @property
    def block(self) -> str:
        """Which simulations it belongs with: those of its scenario with the same guess."""
        name = self.cell.scenario
        return name if len(SCENARIOS[name].guesses) == 1 else f"{name} x{self.guess:g}"


def simulate(cell: Cell) -> Result:
    """Run one simulation. The same cell gives the same result."""
    scenario = SCENARIOS[cell.scenario]
    budget = replace(scenario.budget, charging=cell.charging, output_cap=cell.output_cap)
    seconds = cell.minutes * 60

    def size(input_tokens: int, output_tokens: int) -> float:
        return budget.settled(input_tokens, output_tokens) / (budget.tokens_per_minute / 60)

    jobs = make(cell.seed, cell.minutes, scenario.mix, size)
    world = World(jobs, budget, cell.seed)
    guess = scenario.guesses[cell.seed % len(scenario.guesses)]
    believed = replace(budget.times(guess), is_guess=len(scenario.guesses) > 1)
    contender = POLICIES[cell.policy][1](world, believed)
    ledger = world.run(contender, seconds)
    waits: dict[str, tuple[float, ...]] = {}
    runs: dict[str, tuple[float, ...]] = {}
    if cell.has_samples:
        for level in sorted({wait.priority for wait in ledger.waits}):
            waits[level.label] = tuple(w.seconds for w in ledger.waits if w.priority is level)
        for team in sorted({job.team for job in jobs}):
            took = (seconds_of(run) for run in ledger.runs if run.job.team == team)
            runs[team] = tuple(each for each in took if each is not None)
    figures = measure(jobs, ledger, world.provider, seconds)
    return Result(cell, guess, figures, waits, runs, heaviest_team(jobs, budget))
