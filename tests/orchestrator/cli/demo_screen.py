"""The screens of ``headway demo``: before its first call, and of a race whose numbers are given."""

from rich.console import Console

from headway.demo.plan import Plan
from headway.demo.race import Race
from headway.demo.report import Report, SideReport
from headway.demo.screen import frame, introduction
from headway.demo.side import Waits
from headway.demo.summary import show

URGENT, BACKGROUND = Waits(4, 0.25, 0.5, 0.75), Waits(144, 6.5, 13.5, 14.5)

SIDE = SideReport(
    teams=49,
    finished=49,
    urgent_finished=True,
    urgent_seconds=3.5,
    urgent_error="",
    calls=148,
    answered=148,
    refused=0,
    given_up=0,
    lost=0,
    overtaken=94,
    wall_seconds=24.5,
    requests_used=0.9,
    tokens_used=0.6,
    excess_requests=0.0,
    excess_tokens=0.0,
    waits={"interactive": URGENT, "background": BACKGROUND},
)

if __name__ == "__main__":
    race, console = Race(Plan()), Console()
    console.print(introduction(race.plan), highlight=False)
    console.print(frame(race, 0.0))
    show(Report(race.plan.limits, SIDE, SIDE), console)
