"""What ``headway init --template`` writes, run against the simulated provider."""

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal
from starlette.testclient import TestClient
from tests.orchestrator.cli.shell import KEY, headway

from headway.cli.commands.init import TEMPLATES
from headway.cli.parser import parse
from headway_scheduler.testing.provider import Settings, simulated_provider


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    settings = Settings(reply=lambda body: "An answer.")
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(simulated_provider(settings)) as provider,
    ):
        yield provider.base_url


@pytest.fixture
def folder(tmp_path: Path, base_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", base_url)
    return tmp_path


def test_the_templates_of_the_help_are_those_that_there_are() -> None:
    for name in TEMPLATES:
        assert parse(["init", "--template", name]).template == name
    with pytest.raises(SystemExit, match="2"):
        parse(["init", "--template", "servicx"])


def test_the_template_of_a_team_runs(folder: Path) -> None:
    status, out, err = headway(folder, "init", "--template", "team")
    assert status == 0, err
    assert out.startswith("wrote headway.toml and teams.py. Next:\n")
    status, out, err = headway(folder, "run", "triage", "The site is down", "--last")
    assert (status, out) == (0, "An answer.\n"), err
    assert headway(folder, "submit", "report", "Week 47", "-p", "background")[0] == 0
    status, out, err = headway(folder, "work")
    assert (status, "1 completed · 3 calls" in out) == (0, True), err


def test_the_template_with_a_person_waits_and_goes_on(folder: Path) -> None:
    assert headway(folder, "init", "--template", "person")[0] == 0
    status, _, err = headway(folder, "run", "draft", "A line on tides")
    assert status == 4, err
    (run,) = json.loads(headway(folder, "runs", "--json")[1])
    status, out, err = headway(folder, "runs", "answer", run["id"], "PUBLISH")
    assert (status, "editor: PUBLISH" in out) == (0, True), err


def test_the_template_of_a_service_answers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert headway(folder, "init", "--template", "service")[0] == 0
    monkeypatch.chdir(folder)
    monkeypatch.delenv("HEADWAY_CONFIG", raising=False)
    monkeypatch.syspath_prepend(folder)
    service = import_module("service")
    try:
        with TestClient(service.app) as client:
            answer = client.post("/ask", params={"question": "Well?"})
            assert answer.json()["text"] == "An answer."
            report = client.post("/reports", params={"task": "Week 47", "key": "w47"})
            run_id = report.json()["run"]
            assert client.get(f"/reports/{run_id}").json()["state"] == "queued"
            assert client.get("/reports/r-none").status_code == 404
    finally:
        del sys.modules["service"]
    status, out, err = headway(folder, "work")
    assert (status, "1 completed" in out) == (0, True), err


def test_a_file_that_is_there_keeps_the_others_from_being_written(folder: Path) -> None:
    (folder / "teams.py").write_text("mine = True")
    status, out, err = headway(folder, "init", "--template", "team")
    assert (status, out) == (2, "")
    assert "teams.py: is there already" in err
    assert (folder / "teams.py").read_text() == "mine = True"
    assert not (folder / "headway.toml").exists()
