"""The demo, with less work: what it measures, and what it shows of that."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from rich.console import Console
from tests.waiting import Process, without_slowness

from headway.demo.plan import BACKGROUND, URGENT, Plan
from headway.demo.policy import comparisons, picture
from headway.demo.race import Race
from headway.demo.screen import frame, introduction, watch
from headway.demo.side import Side, TeamState
from headway.demo.summary import show
from headway_scheduler.testing.provider import Entry, Ledger, Limits

# The limits allow its 28 calls within 15 s: a machine that is too busy to ask faster meets none.
SMALL = Plan(
    limits=Limits(requests_per_minute=90, tokens_per_minute=40_000, burst_seconds=4),
    latency_seconds=0.2,
    background_teams=8,
    flood_seconds=1.5,
    urgent_at_seconds=5,
)
WIDE = 200
DEMO = """
import signal, sys
from headway.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
sys.exit(main(["demo"]))
"""


@pytest.fixture(scope="module")
def played() -> tuple[Race, str]:
    return anyio.run(play)


async def play() -> tuple[Race, str]:
    """The race after its end, and what was printed."""
    race, console = Race(SMALL), plain_console()
    console.print(introduction(race.plan))
    async with anyio.create_task_group() as group:
        group.start_soon(watch, race, console)
        await race.run()
        group.cancel_scope.cancel()
    show(race.report(), console)
    return race, text_of(console)


def plain_console() -> Console:
    return Console(file=io.StringIO(), width=WIDE)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture
def race(played: tuple[Race, str]) -> Race:
    return played[0]


@pytest.fixture
def printed(played: tuple[Race, str]) -> str:
    return played[1]


def test_every_team_of_headway_finishes(race: Race) -> None:
    assert {team.state for team in race.ours.teams.values()} == {TeamState.FINISHED}
    assert race.ours.count(TeamState.FINISHED) == SMALL.background_teams + 1
    assert race.ours.calls == 3 * SMALL.background_teams + 4
    assert len(race.ours.ledger.paid) == race.ours.calls
    assert race.ours.given_up() == race.ours.lost() == 0


def test_headway_stays_inside_the_limits(race: Race) -> None:
    # Not 0: a machine that is busy for long holds up a request that was admitted in time.
    assert race.ours.refused < race.stock.refused
    assert race.ours.ledger.excess(SMALL.limits) == (0, 0)


def test_the_urgent_team_passes_the_queue(race: Race) -> None:
    urgent, background = race.ours.waits(URGENT), race.ours.waits(BACKGROUND)
    assert race.ours.overtaken() > 0
    assert urgent.calls == 4
    assert urgent.median_seconds is not None
    assert background.median_seconds is not None
    assert urgent.median_seconds < background.median_seconds


def test_stock_clients_meet_refusals(race: Race) -> None:
    assert race.stock.refused > 0
    ended = race.stock.count(TeamState.FINISHED) + race.stock.count(TeamState.DIED)
    assert ended == SMALL.background_teams + 1
    assert race.stock.calls == len(race.stock.ledger.accepted) + race.stock.given_up()


def test_the_report_is_json(race: Race) -> None:
    report = json.loads(json.dumps(race.report().as_json()))
    assert set(report) == {"limits", "headway", "stock", "seen"}
    assert set(report["headway"]) == set(report["stock"])
    for name, side in (("headway", race.ours), ("stock", race.stock)):
        told = report[name]
        assert told["finished"] == side.count(TeamState.FINISHED)
        assert told["refused"] == side.refused
        assert set(told["waits"]) == {"interactive", "background"}
        assert told["waits"]["background"]["calls"] == side.waits(BACKGROUND).calls
        assert 0 < told["requests_used"] <= 1
    assert report["seen"] == race.report().sentence()


def test_plain_output_has_no_escape_sequences(printed: str) -> None:
    assert "\x1b" not in printed
    assert " s  headway  waiting " in printed
    assert f"{SMALL.background_teams + 1} of {SMALL.background_teams + 1}" in printed


def test_the_end_says_what_was_seen(race: Race, printed: str) -> None:
    words = " ".join(printed.split())
    assert race.report().sentence() in words
    assert "A wait is the time from an agent's asking" in words


def test_the_frame_shows_both_sides(race: Race) -> None:
    console = plain_console()
    console.print(frame(race, 3.0))
    shown = text_of(console)
    for word in ("with Headway", "without", "interactive", "background", "429s", "finished"):
        assert word in shown


def test_ctrl_c_leaves_no_traceback_and_no_file(tmp_path: Path) -> None:
    with Process(
        [sys.executable, "-c", DEMO],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        while "headway  waiting" not in (line := process.stdout.readline()):
            assert line, "it ended by itself"
        assert list(tmp_path.iterdir()), "its database is there while it runs"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert without_slowness(errors) == "headway: stopped; nothing is left behind\n"
    assert list(tmp_path.iterdir()) == []


# The books


def entry(index: int, who: str, at: float, **told: Any) -> Entry:
    fields = {"status": 200, "accepted": True, "paid": True, **told}
    return Entry(index, at, at, "sim", who=who, **fields)


@pytest.fixture
def side() -> Side:
    """A background team: two calls answered, one of them refused first; it died of the third."""
    side = Side("any", Plan(background_teams=1))
    arrival = next(side.plan.arrivals())
    team = side.arrive(arrival)
    with side.recording(arrival) as first, side.recording(arrival) as second:
        started = side.started_at
    side.ledger = Ledger(
        [
            entry(1, first, started + 10),
            entry(2, second, started + 11, status=429, accepted=False, paid=False),
            entry(3, second, started + 14),
        ]
    )
    with side.recording(arrival):
        assert side.waiting(BACKGROUND) == 1
    side.end(team, RuntimeError("refused"))
    return side


def test_a_wait_lasts_until_the_accepted_request(side: Side) -> None:
    waits = side.waits(BACKGROUND)
    assert waits.calls == 2
    assert waits.last_seconds == waits.worst_seconds == pytest.approx(14, abs=1)
    assert side.waits(URGENT) == (0, None, None, None)


def test_what_a_dead_team_paid_is_lost(side: Side) -> None:
    assert (side.lost(), side.given_up(), side.refused) == (2, 1, 1)
    assert side.waiting(BACKGROUND) == 0
    assert side.teams["label-01"].error == "RuntimeError: refused"


def test_who_asked_earlier_and_went_later_was_overtaken() -> None:
    side = Side("any", Plan(background_teams=1))
    background, urgent = side.plan.arrivals()
    at = side.started_at
    with (
        side.recording(background) as first,
        side.recording(background) as passed,
        side.recording(urgent) as question,
        side.recording(background) as later,
    ):
        pass
    order = (first, question, passed, later)
    side.ledger = Ledger([entry(n, mark, at + n) for n, mark in enumerate(order, 1)])
    assert side.overtaken() == 1


def test_each_part_of_the_policy_spares_somebody_a_wait_and_costs_no_more_than_the_headroom() -> (
    None
):
    found = comparisons()
    assert [each.part for each in found] == ["headroom", "fair share", "inheritance"]
    for each in found:
        without, with_it = each.waits
        assert with_it < without / 3, each
        # What is kept of 300 tokens, at 10 a second, is paid for once.
        assert each.ends[1] <= each.ends[0] + (9 if each.part == "headroom" else 0), each


def test_the_picture_has_the_waits_as_numbers_and_as_bars() -> None:
    lines = picture(comparisons()).splitlines()[1:]
    without, with_it = lines[2], lines[3]
    assert without.startswith("fair share, for daily")
    assert without.endswith("160.0")
    assert with_it.endswith("11.0")
    assert without.count("█") == 36
    assert with_it.count("█") == 2
    assert max(map(len, lines)) <= 80
