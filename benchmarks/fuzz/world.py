"""Four bystander runs beside guilty ones, chapter after chapter; each chapter has a database.

Theory of operation. Inputs have numbers; the seed and the number make the input. A *block* of
inputs is of one kind and goes to one guilty run, or is written by hand. A *chapter* plays some
blocks on a fresh database, several at a time, and all the while four bystanders run again and
again. Their transcripts and the number of their paid calls are compared with those of the chapter's
first four, which ran alone. Guilty models have quotas of their own, which an odd pause may stop,
and share a quota with the bystanders: a reservation that is not given back stops everybody.
"""

import asyncio
import faulthandler
import gc
import json
import os
import sys
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from autogen_agentchat.agents import AssistantAgent, BaseChatAgent
from autogen_agentchat.base import Response, Team
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.messages import BaseChatMessage, TextMessage
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core import CancellationToken
from autogen_core.models import ModelFamily, UserMessage
from autogen_ext.models.openai import OpenAIChatCompletionClient
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from headway import Headway, RunHandle
from headway.config import load
from headway_scheduler.backends import open_backend
from headway_scheduler.backends.sqlite.store import SqliteStore
from headway_scheduler.errors import HeadwayError
from headway_scheduler.testing.provider import (
    Latency,
    Reply,
    Settings,
    SimulatedProvider,
    ToolCall,
    simulated_provider,
)

from . import arguments, rows
from .faults import misbehave
from .odd import Random
from .server import TOOLS_AT_ONCE, RawProvider

BLOCK = 50
BLOCKS_OF_CHAPTER = 80
BLOCKS_AT_ONCE = 8
CALLS_AT_ONCE = 16
SLOTS = 8
MODELS = 1200
SDK_MODELS = 60
PROVIDERS = ("openai", "azure", "anthropic", "gemini", "other")
KINDS = {"answers": 9, "sdk": 3, "tools": 3, "code": 1, "arguments": 7, "rows": 4}
"""The kinds of blocks, and how many blocks of each kind come in a turn."""
BYSTANDERS = tuple(f"bystander {n}" for n in range(4))
PATIENCE_SECONDS = 0.3
HANG_SECONDS = 60.0
"""Anything that takes longer is a hang. Nothing here has a reason to wait for so long, on a busy
machine either: callers leave answers after 0.3 or 3 s, and the shared quota is never paused."""

CHAPTER_SECONDS = 900.0
SETTINGS = ("max_answer_mb = 1", "connect_timeout = 1", "first_byte_timeout = 1.5")


@dataclass
class Report:
    """The findings of a process: counts, and a line for each bystander harmed, hang and fault."""

    inputs: Counter[str] = field(default_factory=Counter)
    not_delivered: int = 0
    repeated: int = 0
    bystanders: int = 0
    harmed: list[str] = field(default_factory=list)
    hangs: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    broken_rows: int = 0
    longest_pause_seconds: float = 0.0

    def merge(self, other: "Report") -> None:
        """Add the findings of another process."""
        self.inputs.update(other.inputs)
        self.not_delivered += other.not_delivered
        self.repeated += other.repeated
        self.bystanders += other.bystanders
        self.harmed += other.harmed
        self.hangs += other.hangs
        self.faults += other.faults
        self.longest_pause_seconds = max(self.longest_pause_seconds, other.longest_pause_seconds)

    @classmethod
    def read(cls, line: str) -> "Report":
        """Read a report that :meth:`line` wrote."""
        found = json.loads(line)
        return cls(**(found | {"inputs": Counter(found["inputs"])}))

    def line(self) -> str:
        """Return the report as a line for another process."""
        return json.dumps(vars(self))


def kind_of(block: int) -> str:
    """Return the kind of a block's inputs. Each turn has all kinds, shuffled."""
    kinds = [kind for kind, many in KINDS.items() for _ in range(many)]
    Random(f"kinds {block // len(kinds)}").shuffle(kinds)
    return kinds[block % len(kinds)]


def configuration(folder: Path, good_url: str, odd_url: str) -> None:
    """Write ``headway.toml``."""
    lines = ['[database]\npath = "headway.db"', "[defaults]\nwaiting = 5000"]
    lines += ["[quotas.all]\nrequests_per_minute = 1000000\nconcurrency = 100"]
    lines += ["[quotas.good]\nconcurrency = 100"]
    lines += [f'[models.good]\nquotas = ["good", "all"]\nbase_url = "{good_url}"']
    lines += ['idempotency_header = "x-headway-call"']
    lines += ["[quotas.plain]\nconcurrency = 100"]
    lines += [f'[models.plain]\nquotas = ["plain", "all"]\nbase_url = "{odd_url}"']
    for number in range(MODELS):
        name, provider = f"g{number}", PROVIDERS[number % len(PROVIDERS)]
        learn = str(number % 3 == 0).lower()
        lines += [f"[quotas.{name}]\nrequests_per_minute = 100000\ntokens_per_minute = 100000000"]
        lines += [f'learn = {learn}\n[models.{name}]\nquotas = ["{name}", "all"]']
        lines += [f'base_url = "{odd_url}"\nprovider = "{provider}"', *SETTINGS]
        lines += [f"idle_timeout = {(0.2, 1)[number % 2]}\ncall_timeout = {(1, 3)[number % 2]}"]
    (folder / "headway.toml").write_text("\n".join(lines))


def reply(body: dict[str, Any]) -> Reply | None:
    """Answer an agent: with a call of its first tool, once, if it has tools."""
    tools = [tool["function"]["name"] for tool in body.get("tools") or ()]
    is_called = any(message["role"] == "tool" for message in body["messages"])
    return Reply(tool_calls=(ToolCall(tools[0]),)) if tools and not is_called else None


def bystander(models: Any) -> Team:
    """Two agents, one with a tool: eleven messages."""

    async def look() -> str:
        """Look something up."""
        await asyncio.sleep(0.01)
        return "found"

    writer = AssistantAgent("writer", models("good"), tools=[look], reflect_on_tool_use=True)
    critic = AssistantAgent("critic", models("good"))
    return RoundRobinGroupChat([writer, critic], termination_condition=MaxMessageTermination(11))


class Quick(BaseChatAgent):
    """An agent that asks no model: it does what ``act`` does."""

    produced_message_types = (TextMessage,)

    def __init__(self, act: Callable[[], Any]) -> None:
        super().__init__("quick", "asks nothing")
        self._act = act

    async def on_messages(self, messages: Any, cancellation_token: CancellationToken) -> Response:
        found = await self._act()
        if isinstance(found, BaseChatMessage):
            return Response(chat_message=found)
        return found if found is not None else Response(chat_message=_said("done"))

    async def on_reset(self, cancellation_token: CancellationToken) -> None:
        """Has no state."""


def _said(text: str) -> TextMessage:
    return TextMessage(content=text, source="quick")


class Asker(Quick):
    """An agent that asks models with odd answers. ``clients`` are bound to its run."""

    def __init__(self, clients: list[Any], act: Callable[[list[Any]], Any]) -> None:
        super().__init__(lambda: act(self.clients))
        self.clients = clients


@dataclass
class Participant:
    """A process in a chapter. ``shares``: the other process may execute its runs."""

    seed: int
    folder: Path
    odd_url: str
    report: Report
    name: str = ""
    shares: bool = False
    guilty: list[str] = field(default_factory=list)
    recent: deque[str] = field(default_factory=lambda: deque(maxlen=30))
    _asked_models: int = 0
    _works: bool = False
    _sdks: dict[int, AsyncOpenAI] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._config = load(self.folder / "headway.toml")

    def headway(self) -> Headway:
        """A Headway on the chapter's database, with the workflows of the fuzzer."""
        hw = Headway(self._config)
        hw.workflow("bystander")(bystander)
        hw.workflow("quick")(lambda models: Quick(_nothing))
        hw.workflow("answers")(self._answers)
        hw.workflow("tools")(self._tools)
        hw.workflow("code")(self._code)
        return hw

    # What is done

    async def do(self, blocks: list[int], expected: dict[str, Any]) -> None:
        """Give the blocks to guilty runs beside bystanders, in an open session of their own."""
        waiting, done = deque(blocks), anyio.Event()
        self._works = self.shares
        async with self.headway() as self._hw, DefaultAsyncHttpxClient() as self._http:

            async def beside() -> None:
                while not done.is_set():
                    await self.bystanders(self._hw, expected)
                self._works = False
                self._hw.drain()

            async def take() -> None:
                while waiting:
                    await self._block(waiting.popleft())

            async with anyio.create_task_group() as group:
                if self.shares:
                    group.start_soon(partial(self._hw.work, slots=SLOTS, forever=True))
                group.start_soon(beside)
                async with anyio.create_task_group() as guilty:
                    for _ in range(BLOCKS_AT_ONCE):
                        guilty.start_soon(take)
                done.set()

    async def _begin(self, hw: Headway, workflow: str, turn: int, **options: Any) -> RunHandle:
        """Start a run here, or have whichever process has room execute it."""
        if self._works and turn % 2:
            return await hw.submit(workflow, **options)
        return await hw.start(workflow, **options)

    async def bystanders(self, hw: Headway, expected: dict[str, Any] | None) -> dict[str, Any]:
        """Execute four bystanders, and compare their results with the expected ones, if given."""
        found: dict[str, Any] = {}

        async def one(task: str) -> None:
            try:
                with anyio.fail_after(HANG_SECONDS):
                    handle = await self._begin(hw, "bystander", int(task[-1]), task=task)
                    result = await handle.result()
            except TimeoutError:
                self._hang(f"{task} did not end")
                return
            except Exception as error:
                self.report.harmed.append(f"{self.name}: {task}: {_told(error)}")
                return
            said = [str(getattr(each, "content", "")) for each in result.task_result.messages]
            found[task] = {"said": said, "calls": result.calls, "id": handle.id}
            self.report.bystanders += 1
            if expected is not None:
                for what in ("said", "calls"):
                    if found[task][what] != expected[task][what]:
                        self.report.harmed.append(f"{self.name}: {task}: {what} differs")

        async with anyio.create_task_group() as group:
            for task in BYSTANDERS:
                group.start_soon(one, task)
        return found

    async def _block(self, block: int) -> None:
        kind = kind_of(block)
        self.recent.append(f"block {block} ({kind})")
        try:
            match kind:
                case "arguments":
                    await self._use_arguments(block)
                case "rows":
                    await self._write_rows(block)
                case "sdk":
                    with anyio.fail_after(HANG_SECONDS):
                        await self._ask_sdk(block)
                case "code":
                    for number in self.numbers(block):
                        await self._run("code", block, number)
                case "tools":
                    for number in self.numbers(block)[::TOOLS_AT_ONCE]:
                        await self._run("tools", block, number)
                case _:
                    await self._run(kind, block, block * BLOCK)
        except TimeoutError:
            self._hang(f"block {block} ({kind}) did not end")
        except Exception as error:
            self._fault(block, error)

    def numbers(self, block: int) -> range:
        """The inputs of a block."""
        return range(block * BLOCK, (block + 1) * BLOCK)

    async def _run(self, workflow: str, block: int, number: int) -> None:
        """Execute a guilty run. Its end does not matter, but it must end."""
        parameters = {"block": block, "number": number}
        turn = block // 2 if workflow == "answers" else number // TOOLS_AT_ONCE
        try:
            handle = await self._begin(self._hw, workflow, turn, task="odd", parameters=parameters)
            if handle.is_local:
                self.guilty.append(handle.id)
            with anyio.move_on_after(HANG_SECONDS) as scope:
                await handle.result()
            if scope.cancelled_caught:
                self._hang(f"run {handle.id} of block {block} ({workflow}) did not end")
                await self._hw.cancel(handle.id)
        except HeadwayError as error:
            self._check_internal(block, error)
        if workflow == "code":
            self.report.inputs["code"] += 1

    async def _use_arguments(self, block: int) -> None:
        for number in self.numbers(block):
            try:
                with anyio.fail_after(HANG_SECONDS):
                    await arguments.use(self._hw, Random(f"{self.seed} argument {number}"))
            except TimeoutError:
                self._hang(f"argument {number} of block {block} did not come back")
            except HeadwayError as error:
                self._check_internal(block, error)
            except Exception as error:
                self._fault(block, error)
            self.report.inputs["arguments"] += 1

    async def _write_rows(self, block: int) -> None:
        path, numbers = self.folder / "headway.db", list(self.numbers(block))
        for at in range(0, BLOCK, 10):
            part = numbers[at : at + 10]
            counts = await anyio.to_thread.run_sync(
                rows.write, path, self.seed, part, list(self.guilty)
            )
            self.report.inputs.update(counts)
            await anyio.sleep(0.05)

    # Guilty runs

    def _answers(self, models: Any, block: int, number: int) -> Asker:
        """An agent that asks AutoGen's own clients."""

        async def act(clients: list[Any]) -> None:
            await self._many(block, lambda n: self._ask(clients[n % len(clients)], n, block))

        return Asker([self._client(f"g{self._next_model()}") for _ in range(BLOCK)], act)

    def _client(self, model: str) -> OpenAIChatCompletionClient:
        return OpenAIChatCompletionClient(
            model=model,
            api_key="not-a-key",
            base_url=self.odd_url,
            http_client=self._http,
            max_retries=0,
            model_info={
                "vision": False,
                "function_calling": True,
                "json_output": True,
                "structured_output": False,
                "family": ModelFamily.UNKNOWN,
            },
        )

    def _next_model(self) -> int:
        self._asked_models += 1
        return self._asked_models % MODELS

    async def _ask(self, client: Any, number: int, block: int) -> None:
        rng = Random(f"{self.seed} asked {number}")
        message = UserMessage(content=f"input {number} in {block}", source="user")
        if rng.random() < 0.4:
            async for _ in client.create_stream([message]):
                if rng.random() < 0.03:
                    break
        else:
            await client.create([message])

    async def _many(self, block: int, ask: Callable[[int], Any]) -> None:
        """Ask all inputs of a block, some at once, none for long."""
        limiter = anyio.Semaphore(CALLS_AT_ONCE)

        async def one(number: int) -> None:
            patience = 3.0 if number % 20 == 0 else PATIENCE_SECONDS
            async with limiter:
                with suppress(Exception), anyio.move_on_after(patience):
                    await ask(number)

        async with anyio.create_task_group() as group:
            for number in self.numbers(block):
                group.start_soon(one, number)

    async def _ask_sdk(self, block: int) -> None:
        """Ask OpenAI's own client, outside of runs."""

        async def ask(number: int) -> None:
            sdk = self._sdk(number % SDK_MODELS)
            rng = Random(f"{self.seed} asked {number}")
            said = f"input {number} in {block}"
            if rng.random() < 0.3:
                await sdk.embeddings.create(model="odd", input=said)
                return
            body: Any = [{"role": "user", "content": said}]
            if rng.random() < 0.4:
                async for _ in await sdk.chat.completions.create(
                    model="odd", messages=body, stream=True
                ):
                    pass
            else:
                await sdk.chat.completions.create(model="odd", messages=body)

        await self._many(block, ask)

    def _sdk(self, model: int) -> AsyncOpenAI:
        if model not in self._sdks:
            self._sdks[model] = self._hw.openai(f"g{model}")
        return self._sdks[model]

    def _tools(self, models: Any, block: int, number: int) -> Team:
        """An agent whose tool misbehaves in ten ways at once."""
        seed, client = self.seed, self._client("plain")

        async def misbehaves(number: int = 0) -> Any:
            """Misbehave."""
            return await misbehave(Random(f"{seed} fault {number}"))

        misbehaves.__name__ = "misbehave"
        system = f"tools {number} to {number + TOOLS_AT_ONCE} in {block}"
        agent = AssistantAgent("odd", client, tools=[misbehaves], system_message=system)
        return RoundRobinGroupChat([agent], max_turns=2)

    async def _code(self, models: Any, block: int, number: int) -> Any:
        """A factory, or an agent, that misbehaves."""
        rng = Random(f"{self.seed} code {number}")
        if rng.random() < 0.3:
            return await misbehave(rng)
        agent = Quick(lambda: misbehave(rng))
        return agent if rng.random() < 0.5 else RoundRobinGroupChat([agent], max_turns=1)

    # What is noticed

    def _check_internal(self, block: int, error: BaseException) -> None:
        if type(error).__name__ in ("InternalError", "IllegalTransition"):
            self._fault(block, error)

    def _fault(self, block: int, error: BaseException) -> None:
        self.report.faults.append(
            f"block {block} ({kind_of(block)}): {_told(error)} "
            f"[--seed {self.seed} --first-block {block} --inputs {BLOCK}]"
        )

    def _hang(self, what: str) -> None:
        self.report.hangs.append(f"{self.name}: {what}; before it: {', '.join(self.recent)}")
        print_waiting(f"{self.name}: {what}")


async def _nothing() -> None:
    await asyncio.sleep(0)


def _told(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(map(_told, error.exceptions))
    try:
        said = str(error)[:200]
    except Exception as problem:
        said = f"its text raised {problem!r}"
    notes = " ".join(getattr(error, "__notes__", ()))
    where = traceback.extract_tb(error.__traceback__)[-1:]
    place = f"{Path(where[0].filename).name}:{where[0].lineno}" if where else "?"
    return f"{type(error).__name__} at {place}: {said!r} {notes}"


def print_waiting(what: str) -> None:
    """Print where each task of this process waits: only a hang has a use for it."""
    print(f"HANG {what}", file=sys.stderr)
    for task in asyncio.all_tasks():
        places = ", ".join(_awaited(task.get_coro()))
        print(f"  {task.get_name()}: {places}", file=sys.stderr)


def _awaited(coro: Any) -> Iterator[str]:
    """Yield where a coroutine waits, where what it waits for does, and so on."""
    while coro is not None:
        frame = next((f for n in _FRAMES if (f := getattr(coro, n, None)) is not None), None)
        if frame is not None:
            yield f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        awaited = next((a for n in _AWAITED if (a := getattr(coro, n, None)) is not None), None)
        if awaited is None and frame is None:  # the step of a generator does not show it
            awaited = next((r for r in gc.get_referents(coro) if hasattr(r, "ag_frame")), None)
        coro = awaited


_FRAMES = ("cr_frame", "ag_frame", "gi_frame")
_AWAITED = ("cr_await", "ag_await", "gi_yieldfrom")


@contextmanager
def watched(report: Report) -> Iterator[None]:
    """Measure for how long the event loop is blocked; end the process if that lasts 30 s."""
    loop, ended = asyncio.get_running_loop(), threading.Event()
    turned_at = [time.monotonic()]

    def touch() -> None:
        turned_at[0] = time.monotonic()

    def watch() -> None:
        while not ended.wait(0.05):
            late = time.monotonic() - turned_at[0]
            report.longest_pause_seconds = max(report.longest_pause_seconds, late)
            if late > HANG_SECONDS / 2:
                faulthandler.dump_traceback()
                os._exit(3)
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(touch)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@dataclass
class Chapter:
    """A chapter: this process has the providers, and checks the database in the end."""

    seed: int
    folder: Path
    report: Report
    latency_seconds: float = 0.05

    async def play(self, blocks: list[int], other: "Other | None" = None) -> None:
        """Execute a chapter; ``other`` is a second process, which takes every second block."""
        raw = RawProvider(self.seed)
        latency = Latency(base_seconds=self.latency_seconds)
        async with raw.open(), simulated_provider(Settings(latency=latency, reply=reply)) as good:
            configuration(self.folder, good.base_url, raw.url)
            here = Participant(
                self.seed, self.folder, raw.url, self.report, "leader", shares=other is not None
            )
            async with here.headway() as hw:
                expected = await here.bystanders(hw, None)
            assert len(expected) == len(BYSTANDERS), self.report
            paid = {task: self._paid(good, found["id"]) for task, found in expected.items()}
            if other is None:
                await here.do(blocks, expected)
            else:
                async with anyio.create_task_group() as group:
                    group.start_soon(other.play, self.folder, raw.url, blocks[1::2], expected)
                    await here.do(blocks[::2], expected)
            await self._after(here, expected)
            self.report.inputs.update(raw.sent)
            self.report.repeated += raw.attempts.total() - len(raw.attempts)
            asked = [b for b in blocks if kind_of(b) in ("answers", "sdk")]
            delivered = sum(raw.attempts[n] > 0 for b in asked for n in here.numbers(b))
            self.report.not_delivered += len(asked) * BLOCK - delivered
            await self._compare_paid(good, paid)

    def _paid(self, good: SimulatedProvider, run_id: str) -> int:
        return sum(entry.who.startswith(f"{run_id}.") for entry in good.ledger.paid)

    async def _compare_paid(self, good: SimulatedProvider, paid: dict[str, int]) -> None:
        """Compare the paid calls of each bystander by the provider's ledger, not by our rows."""
        async with SqliteStore(self.folder / "headway.db", read_only=True) as store:
            for run in await store.runs():
                if run.workflow != "bystander":
                    continue
                if (now := self._paid(good, run.id)) != paid[run.task]:
                    said = f"{run.task}: {now} calls paid instead of {paid[run.task]}"
                    self.report.harmed.append(said)

    async def _after(self, here: Participant, expected: dict[str, Any]) -> None:
        """Run bystanders after a restart, repair the database, read it whole, run them again."""
        path = self.folder / "headway.db"
        async with here.headway() as hw:
            await here.bystanders(hw, expected)
        maintenance = open_backend(path).maintenance()
        await maintenance.problems()
        self.report.broken_rows += len(await maintenance.repair())
        for problem in await maintenance.problems():
            self.report.faults.append(f"db check: {problem[:300]}")
        async with SqliteStore(path, read_only=True) as store:
            for run in await store.runs():
                await store.calls(run.id)
            for row in store.unreadable:
                self.report.faults.append(f"journal: {row!s:.300}")
        async with here.headway() as hw:
            await here.bystanders(hw, expected)


class Other:
    """A second process on the same database. The two exchange lines."""

    def __init__(self, process: asyncio.subprocess.Process, report: Report) -> None:
        self._process = process
        self._report = report

    async def play(
        self, folder: Path, odd_url: str, blocks: Iterable[int], expected: dict[str, Any]
    ) -> None:
        """Have the second process play its part of a chapter."""
        asked = {"folder": str(folder), "odd_url": odd_url, "blocks": list(blocks)}
        line = json.dumps(asked | {"expected": expected})
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line.encode() + b"\n")
        await self._process.stdin.drain()
        answered = await self._process.stdout.readline()
        if not answered:
            self._report.hangs.append(f"the other process ended: {await self._process.wait()}")
            return
        self._report.merge(Report.read(answered.decode()))


async def take_part(seed: int, asked: dict[str, Any]) -> Report:
    """Do what :class:`Other` asks, in the second process."""
    report = Report()
    here = Participant(seed, Path(asked["folder"]), asked["odd_url"], report, "other", shares=True)
    with watched(report):
        await here.do(asked["blocks"], asked["expected"])
    return report
