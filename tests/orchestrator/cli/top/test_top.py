"""``headway top`` on a real terminal: what its keys do, beside a process that leads, and alone."""

import json
from functools import partial
from pathlib import Path

import anyio
import pytest
from anyio import to_thread
from autogen_agentchat.agents import AssistantAgent
from tests.orchestrator.cli import seeds
from tests.tmux import Terminal, headway
from tests.waiting import until

from headway import Headway
from headway.cli import main
from headway.cli.top.app import App
from headway.cli.top.look import look
from headway.cli.top.parts import plain
from headway.config import load
from headway.runs.handle import RunHandle
from headway_scheduler.backends.sqlite.store import SqliteStore
from headway_scheduler.model.batch import Batch
from headway_scheduler.model.calls import Priority
from headway_scheduler.model.runs import Run
from headway_scheduler.model.states import RunState
from headway_scheduler.testing.provider import Latency, Settings, simulated_provider

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

CONFIG = """
[database]
path = "headway.db"
[quotas.q]
concurrency = 1
[models.m]
quotas = ["q"]
api_key_env = "TEST_KEY"
base_url = "{url}"
"""


def asked(hw: Headway, calls: int) -> bool:
    counts = hw.scheduler.statistics()
    return sum(counts.waiting) + counts.in_flight == calls


def play(folder: Path, second: str, third: str) -> list[str]:
    """Press all keys; the screens, by what was pressed."""
    screens = []
    with Terminal(folder, headway("top"), environment={"TEST_KEY": "none"}) as terminal:
        press, see = terminal.press, terminal.until
        see("2 waiting", "1 in flight", second, third, "q quit")
        press("Down", "b")
        see("3 normal", "· Esc")
        press("1")
        screens.append(see(f"{third} is interactive"))
        press("p")
        see("m model:m")
        press("m")
        screens.append(see("model:m is paused since"))
        press("p")
        see("m resume model:m")
        press("m")
        see("model:m is open", gone="model:m is paused since")
        press("s")
        see("s sort: longest wait")
        press("f", second)
        see(f"filter: {second}")
        press("Enter")
        screens.append(see(f"f filter: {second}", gone=f"{third} "))
        press("Escape")
        see(f"{third} ", gone="filter:")
        press("?")
        see("P95 WAIT   95 of 100 calls")
        press("?")
        see("2 waiting")
        press("Enter")
        screens.append(see("Esc back", "workflow", "Hello?"))
        press("p")
        see("pause: a all", "r r-")
        press("r")
        see("asked to pause r-")
        press("q")
        see("[ended: 0]")
    return screens


async def test_its_keys_steer_the_process_that_leads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_KEY", "none")
    async with simulated_provider(Settings(latency=Latency(3_600.0))) as provider:
        (tmp_path / "headway.toml").write_text(CONFIG.format(url=provider.base_url))
        async with Headway(tmp_path / "headway.toml") as hw:
            hw.workflow("ask")(lambda models: AssistantAgent("writer", models("m")))
            runs: list[RunHandle] = []
            for number in range(3):  # one after the other, so that their order is known
                runs.append(await hw.start("ask", task="Hello?"))
                await until(partial(asked, hw, number + 1))
            calls = [f"{run.id}.0" for run in runs]
            screens = await to_thread.run_sync(play, tmp_path, calls[1], calls[2])
            assert "interactive" in screens[0]
            first, *_ = hw.scheduler.queued()
            assert (first.call.id, first.call.priority) == (calls[2], Priority.INTERACTIVE)
            for run in runs:
                await hw.cancel(run.id)


async def test_it_is_opened_before_the_first_run_and_shows_it_when_it_comes(tmp_path: Path) -> None:
    seeds.write_config(tmp_path)
    with Terminal(tmp_path, headway("top")) as terminal:
        see = partial(to_thread.run_sync, terminal.until)
        await see("no process works on it", "0 waiting", "concurrency")
        assert not (tmp_path / "headway.db").exists()
        run = Run("r-first000", "report", "t", Priority.LOW, RunState.QUEUED, 1_000.0)
        async with SqliteStore(tmp_path / "headway.db") as store:
            await store.commit(Batch(runs=(run,)))
            await see("r-first000", "works on it", "1 run")
        terminal.press("q")
        await see("[ended: 0]")


async def test_an_error_is_shown_and_what_was_seen_stays(tmp_path: Path) -> None:
    seeds.write_config(tmp_path)
    config = load(tmp_path / "headway.toml")
    async with SqliteStore(config.database) as store:
        await store.commit(seeds.batch())
    seen = await look(config)

    app = App(config, None, 20, seen, lambda action: None)
    await anyio.Path(config.database).write_bytes(b"no database any more" * 1_000)
    await app.look()
    assert app.dashboard is seen
    screen = plain(app.lines(80, 24))
    assert "not a Headway database" in " ".join(screen.splitlines()[-2:])
    assert "r-00000009.1" in screen


@pytest.mark.parametrize("height", [1, 3, 5, 10, 15, 24, 60])
@pytest.mark.parametrize("width", [20, 40, 80, 200])
async def test_it_fits_any_terminal(tmp_path: Path, width: int, height: int) -> None:
    seeds.write_config(tmp_path)
    config = load(tmp_path / "headway.toml")
    async with SqliteStore(config.database, candidate=seeds.WORKER) as store:
        await store.commit(seeds.batch())
        seen = await look(config)
    lines = App(config, None, 20, seen, lambda action: None).lines(width, height)
    assert len(lines) == height
    assert all(sum(len(text) for text, _ in line) <= width for line in lines)


async def test_the_cursor_reaches_rows_that_were_below_the_screen(tmp_path: Path) -> None:
    seeds.write_config(tmp_path)
    config = load(tmp_path / "headway.toml")
    async with SqliteStore(config.database, candidate=seeds.WORKER) as store:
        await store.commit(seeds.batch())
        app = App(config, None, 20, await look(config), lambda action: None)
    assert "r-00000001.1" not in plain(app.lines(80, 24))
    for _ in range(len(app.ids)):
        app.lines(80, 24)
        await app.press("down")
    assert app.view.selected == app.ids[-1]
    app.view.selected = "r-00000001.1"
    (line,) = [line for line in app.lines(80, 24) if "r-00000001.1" in plain([line])]
    assert all("reverse" in style for text, style in line if text.strip())
    await app.press("?")
    assert "".join(plain(app.lines(80, 24)).split()).count("waitedatmostsolong") == 1
    assert all(sum(len(text) for text, _ in line) <= 80 for line in app.lines(80, 24))


def test_a_question_waits_for_a_person_and_for_no_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    seeds.write_config(tmp_path)
    found: dict[str, str] = {}

    async def show() -> None:
        async with SqliteStore(tmp_path / "headway.db", candidate=seeds.WORKER) as store:
            await store.commit(seeds.batch())
            for command in (["top", "--json"], ["queue", "--limit", "99"], ["top"]):
                assert await to_thread.run_sync(main, command) == 0
                found[" ".join(command)] = capsys.readouterr().out

    anyio.run(show)
    facts = json.loads(found["top --json"])
    assert facts["questions"] == [
        {"run_id": "r-asks0000", "call_id": "r-asks0000.1", "text": seeds.QUESTION}
    ]
    assert facts["waiting"]["normal"] == 4
    assert facts["holds"][0]["target"] == "class:low"
    (row,) = [line for line in found["queue --limit 99"].splitlines() if "r-asks0000" in line]
    assert row.endswith("a person: `headway runs answer r-asks0000`")
    calls = found["top"].split("CALL")[1].split("RUN")[0]
    assert "r-asks0000" not in calls
