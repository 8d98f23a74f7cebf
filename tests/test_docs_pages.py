"""The tutorial and the how-to guides do what they say: files load, code and commands run.

Each page runs as printed, in a folder of its own with a ``headway.toml`` that leads to a simulated
provider. Commands of guides are parsed; those of the tutorial run.
"""

import ast
import base64
import inspect
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.from_thread import start_blocking_portal
from tests.processes import Process, WarmProcess
from tests.sentences import SENTENCE

import headway
from headway import Headway
from headway.cli.parser import parse
from headway.config import load
from headway.workers.notices import signed
from headway_scheduler.testing.provider import Latency, Settings, simulated_provider

DOCS = Path(__file__).parent.parent / "docs"
TUTORIAL = DOCS / "tutorial.md"
PAGES = [TUTORIAL, *sorted((DOCS / "howto").glob("*.md"))]
CONFIG = """
[defaults]
model = "sim"
[models.sim]
base_url = "{url}"
quotas = ["roomy"]
usd_per_million_input_tokens = 1
usd_per_million_output_tokens = 1
[models."gpt-5.4"]
base_url = "{url}"
quotas = ["roomy"]
usd_per_million_input_tokens = 1
usd_per_million_output_tokens = 1
[quotas.roomy]
requests_per_minute = 6000
"""
Block = tuple[str, str, str]
"""The language of a fenced block, its file if it names one, and its text."""


def blocks(page: Path) -> list[Block]:
    found = re.findall(
        r'^```(\w*)(?: title="([^"]*)")?\n(.*?)^```$',
        page.read_text(),
        re.MULTILINE | re.DOTALL,
    )
    return [(language, name, text) for language, name, text in found]


def code(name: str) -> list[str]:
    page = DOCS / "howto" / name
    return [text for language, file, text in blocks(page) if language == "python" and not file]


def commands(page: Path) -> list[str]:
    """Every command of headway on a page: typed, or in a crontab."""
    lines = [
        line
        for language, _, text in blocks(page)
        if language != "python"
        for line in text.split("\n")
    ]
    typed = [line[2:] for line in lines if line.startswith("$ headway ")]
    timed = [line.split(" && ")[1] for line in lines if " && headway " in line]
    return [re.split(r" &(?: |$)", line)[0] for line in (*typed, *timed)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, with a configuration that leads to a simulated provider."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(
            simulated_provider(Settings(latency=Latency(0.1)))
        ) as provider,
    ):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("OPENAI_BASE_URL", provider.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
        (tmp_path / "headway.toml").write_text(CONFIG.format(url=provider.base_url))
        yield tmp_path


def execute(name: str) -> dict[str, Any]:
    """Execute the Python of a guide in one namespace and one event loop, as a notebook would."""
    names: dict[str, Any] = {"__name__": "page"}

    async def run() -> None:
        for text in code(name):
            compiled = compile(text, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            done = eval(compiled, names)
            if inspect.isawaitable(done):
                await done

    anyio.run(run)
    return names


def test_every_guide_is_here() -> None:
    assert len(PAGES) == 14
    assert sum(len(blocks(page)) for page in PAGES) >= 43


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_is_of_a_kind_that_is_checked(page: Path) -> None:
    for language, name, text in blocks(page):
        assert language in ("python", "toml", "console", ""), text
        assert language != "" or " && headway " in text or "pip install" in text
        assert language != "toml" or name == "headway.toml"


@pytest.mark.parametrize(
    ("page", "command"), [(page.stem, each) for page in PAGES for each in commands(page)]
)
def test_the_commands_parse(page: str, command: str) -> None:
    parse(shlex.split(command)[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_configurations_load_and_their_clients_are_made(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("OPENAI_API_KEY", "AZURE_OPENAI_API_KEY", "AZURE_US_API_KEY", "LITELLM_KEY"):
        monkeypatch.setenv(variable, "not-a-key")

    async def open_all(file: Path) -> None:
        config = load(file)
        assert config.models
        async with Headway(replace(config, database=tmp_path / "headway.db")) as headway:
            for name in config.models:
                assert headway.model(name).model_info

    for language, name, text in blocks(page):
        if language == "toml":
            (tmp_path / name).write_text(text)
            anyio.run(open_all, tmp_path / name)


# OpenAI answers with a dated name, which AutoGen expects; the simulated provider with a plain one.
@pytest.mark.filterwarnings("ignore:Resolved model mismatch:UserWarning")
@pytest.mark.usefixtures("folder")
def test_the_guide_of_autogen(capsys: pytest.CaptureFixture[str]) -> None:
    names = execute("autogen.md")
    anyio.run(names["main"])
    anyio.run(names["team"])
    said, end = capsys.readouterr().out.splitlines()
    assert re.fullmatch(SENTENCE, said)
    assert end.startswith("Maximum number of messages 4 reached")
    assert end.endswith(" 3")


@pytest.mark.usefixtures("folder")
def test_the_guide_of_fastapi() -> None:
    from fastapi.testclient import TestClient

    names: dict[str, Any] = {}
    exec(next(text for _, name, text in blocks(DOCS / "howto/fastapi.md") if name), names)
    with TestClient(names["create_app"]()) as client:
        answer = client.post("/ask", params={"question": "Why?"}).json()
        assert re.fullmatch(SENTENCE, answer["text"])
        ask = {"task": "Week 47", "key": "w47"}
        later = [client.post("/reports", params=ask) for _ in range(2)]
        assert later[0].status_code == 202
        assert later[0].json() == later[1].json()
        run_id = later[0].json()["run"]
        while (seen := client.get(f"/reports/{run_id}").json())["state"] != "completed":
            assert seen["state"] in ("queued", "running"), seen
        assert re.fullmatch(SENTENCE, seen["text"])
        assert seen["calls"] == "1"
        assert client.get("/reports/r-none").status_code == 404
        assert client.get(f"/reports/{run_id[:6]}").status_code == 404
        assert client.delete(f"/reports/{run_id}").status_code == 409
        told = client.post("/stream", params={"question": "Why?"})
        assert re.fullmatch(SENTENCE, told.text)


@pytest.mark.usefixtures("folder")
def test_the_guide_of_notebooks(capsys: pytest.CaptureFixture[str]) -> None:
    execute("notebook.md")
    out, progress = capsys.readouterr().out, r"\r(\{.*?\}), \d+ calls wait   "
    assert re.findall(progress, out)[-1] == "{'completed': 3}"
    first, *events, third, spring, neap, storm, dollars = re.sub(progress, "", out).splitlines()
    assert {"Queued", "Admitted", "TextMessage", "Ended"} <= set(events)
    assert all(re.fullmatch(SENTENCE, line) for line in (first, third))
    assert all(re.fullmatch(f"r-[a-z0-9]{{8}} {SENTENCE}", each) for each in (spring, neap, storm))
    assert re.fullmatch(r"this experiment: 0\.000\d+", dollars)


@pytest.mark.usefixtures("folder")
def test_the_guide_of_many_processes(capsys: pytest.CaptureFixture[str]) -> None:
    anyio.run(execute("processes.md")["main"])
    assert len(set(re.findall(SENTENCE, capsys.readouterr().out))) == 3


def test_the_guide_of_many_tasks(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "tickets.csv").write_text("id,text\n1,It is down.\n2,It is slow.\n")
    main = execute("many.md")["main"]
    anyio.run(main)
    first = capsys.readouterr().out
    assert re.fullmatch(rf"1 {SENTENCE}\n2 {SENTENCE}\n", first)
    anyio.run(main)
    assert capsys.readouterr().out == first


@pytest.mark.usefixtures("folder")
def test_the_guide_of_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    main = execute("scripts.md")["main"]
    main()
    main()
    first, again = capsys.readouterr().out.splitlines()
    assert re.fullmatch(SENTENCE, first)
    assert again == first


@pytest.mark.usefixtures("folder")
def test_the_guide_of_budgets(capsys: pytest.CaptureFixture[str]) -> None:
    anyio.run(execute("budgets.md")["main"])
    said, *costs = capsys.readouterr().out.splitlines()
    assert re.fullmatch(SENTENCE, said)
    assert costs[0].startswith("research 1 ")


@pytest.mark.usefixtures("folder")
def test_the_guide_of_people(capsys: pytest.CaptureFixture[str]) -> None:
    anyio.run(execute("people.md")["main"])
    state, said = capsys.readouterr().out.splitlines()
    assert state == "waiting"
    assert re.fullmatch(SENTENCE, said)


def test_the_guide_of_notifications(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fastapi.testclient import TestClient

    monkeypatch.setenv("HOOK_SECRET", "whsec_" + base64.b64encode(bytes(32)).decode())
    names = execute("notifications.md")
    with TestClient(names["app"]) as client:
        body = b'{"type": "run.ended"}'
        headers = signed(bytes(32), "run.ended.r-1", int(time.time()), body)
        statuses = [
            client.post("/headway", content=content, headers=headers | more).status_code
            for content, more in (
                (body, {}),
                (body, {}),
                (b"{}", {}),
                (body, {"webhook-timestamp": "1"}),
            )
        ]
    assert statuses == [204, 204, 401, 401]
    assert capsys.readouterr().out == f"{body.decode()}\n"


def test_the_guide_of_litellm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _, name, text in blocks(DOCS / "howto/litellm.md"):
        if name:
            url = os.environ["OPENAI_BASE_URL"]
            (folder / name).write_text(text.replace("http://localhost:4000/v1", url))
    asked = environment() | {"LITELLM_KEY": "sk-1", "PYTHONPATH": os.pathsep.join(sys.path)}
    asked.pop("OPENAI_API_KEY")

    def says(*command: str) -> str:
        headway = [sys.executable, "-m", "headway", *command]
        done = subprocess.run(headway, env=asked, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    for command in commands(DOCS / "howto/litellm.md"):
        says(*shlex.split(command)[1:])
    says("work")
    runs = json.loads(says("runs", "--json"))
    assert {(run["workflow"], run["priority"], run["state"]) for run in runs} == {
        ("nightly", "background", "completed"),
        ("triage", "interactive", "completed"),
    }


@pytest.mark.parametrize("name", ["pytest.md", "fastapi.md"])
def test_the_tests_of_guides(tmp_path: Path, name: str) -> None:
    for _, file, text in blocks(DOCS / "howto" / name):
        if file:
            (tmp_path / file).write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def environment() -> dict[str, str]:
    # A pytest that is started within this one is no worker of it, and counts no lines for it.
    others = ("HEADWAY_", "PYTEST_", "SLIPCOVER_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    paths = [os.path.abspath(entry) for entry in sys.path if entry]
    return kept | {"PYTHONPATH": os.pathsep.join(paths)}


def start(folder: Path, command: str) -> Process:
    _, *arguments = shlex.split(command)
    return WarmProcess(
        [sys.executable, "-m", "headway", *arguments],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: Process) -> str:
    out, err = process.communicate()
    assert process.returncode == 0, (process.args, out, err)
    return out


def test_the_tutorial(folder: Path) -> None:
    """Its files and commands in their order, against a provider that has room and is faster."""
    address = os.environ["OPENAI_BASE_URL"]
    for _, name, text in blocks(TUTORIAL):
        if name:
            changed = re.sub(r"http://127[^\"]*", address, text).replace(" = 60", " = 6000")
            (folder / name).write_text(changed)
    worker: Process | None = None
    outputs: dict[str, str] = {}
    for command in commands(TUTORIAL):
        process = start(folder, command)
        if "press release" in command:
            with process:
                assert process.stdout is not None
                while not process.stdout.readline().startswith("critic: "):
                    pass
                process.send_signal(signal.SIGKILL)
            continue
        if command == "headway work":
            worker = process
            continue
        outputs[command] = finish(process)
    assert worker is not None
    finish(worker)
    assert re.search(
        rf"^writer: {SENTENCE}$",
        outputs['headway run report "Draft the release note."'],
        re.MULTILINE,
    )
    assert "interrupted" in outputs["headway runs list"]
    assert re.search(r"calls replayed: [2-7] ", outputs["headway resume --all"])
    assert "completed" in outputs['headway run report "Why is the site down?" -p interactive']


def test_the_site_is_whole(tmp_path: Path) -> None:
    """As `make docs` builds it: no markup is left, no link is dead, nothing comes from outside."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir"]
    subprocess.run([*command, str(tmp_path)], cwd=DOCS.parent, check=True)
    pages = {page: page.read_text() for page in tmp_path.rglob("*.html") if page.name != "404.html"}
    ids = {page: set(re.findall(r'\bid="([^"]+)"', text)) for page, text in pages.items()}
    assert len(pages) >= 30
    described = {name.rsplit(".", 1)[-1] for name in ids[tmp_path / "api.html"]}
    assert set(headway.__all__) - described == {"__version__", "Progress"}  # a number, a union
    for page, text in pages.items():
        assert re.findall(r'<(?:script|img|link)[^>]*(?:src|href)="(?:https?:)?//', text) == []
        for target, anchor in re.findall(r'<a[^>]*\bhref="(?!\w+:)([^"#]*)#?([^"]*)"', text):
            other = (page.parent / target).resolve() if target else page
            assert other.is_dir() or other.exists(), (page.name, target)
            assert not anchor or other not in ids or anchor in ids[other], (
                page.name,
                target,
                anchor,
            )
        prose = re.sub(r"<(pre|code|script|style)\b.*?</\1>", "", text, flags=re.DOTALL)
        words = re.sub(r"<[^>]+>", "", prose)
        assert (
            re.findall(r"```|\]\(|\*\*|:(?:meth|class|func|attr):|^\|.*|^- .*", words, re.MULTILINE)
            == []
        ), page.name
