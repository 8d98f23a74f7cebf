"""``headway top`` on a terminal: looks every second, and has keys act.

Law of this file: it leads nothing for longer than one action takes, and an error is shown and ends
nothing. Actions are those of ``Headway``, which the leader carries out, whichever process it is.

An action may take long: a run pauses at its next call. So it goes on in a task of its own, while
the screen lives; what it came to is shown, and leaving gives it up.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from textwrap import wrap
from typing import NamedTuple, assert_never

import anyio
from anyio import to_thread
from rich.console import Console
from rich.live import Live
from rich.text import Text

from headway_scheduler.errors import HeadwayError
from headway_scheduler.model.calls import Priority
from headway_scheduler.model.changes import ALL

from ...api import Headway
from ...config import Config
from ..database import OneRun
from ..output import one_line
from .keys import Keys
from .look import Dashboard, look, look_at_run
from .parts import HEAD, Line
from .picture import Selection, Sort, draw
from .run_picture import draw_run

EVERY_SECONDS = 1.0
REST = 3.0
"""How many times as long as a look takes there is rest before the next: 10,000 calls take 1 s."""
STEPS = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -10, "page down": 10}
"""Keys that move the cursor, by how many lines."""
HELP = (
    ("↑ ↓  j k", "move the cursor over calls, questions and runs"),
    ("⏎", "open the run under the cursor: its calls, and why each was sent again"),
    ("s", "sort: the next first, the longest wait first, by name"),
    ("f", "filter: only what has a text in its id, agent, model, class, workflow, team or task"),
    ("p", "pause, or resume: all, the class or the model of a call, or the run"),
    ("b", "bump: give the call or the run under the cursor another class"),
    ("Esc", "back"),
    ("q Ctrl-C", "quit; nothing of what is shown ends"),
    ("", ""),
    ("IN USE", "the share of what the limit allows at once that is held or was just spent"),
    ("LAST MIN…", "what calls took that ended in the last minute, of what a minute permits"),
    ("429", "attempts that the quota refused in the last minute"),
    ("P95 WAIT", "95 of 100 calls that ended in the last 5 minutes waited at most so long"),
)


class Mode(Enum):
    """What the screen shows, and so what a key means."""

    TABLE = auto()
    HELP = auto()
    RUN = auto()
    FILTER = auto()
    PAUSE = auto()
    BUMP = auto()


class Action(NamedTuple):
    """What a key asks for."""

    asked: str  #: what is asked, in words
    do: Callable[[Headway], Awaitable[str]]  #: does it, and returns in words what it came to


@dataclass(slots=True)
class App:
    """What is shown, and what the keys have made of it. ``path``: of the configuration file."""

    config: Config
    path: str | None
    limit: int
    dashboard: Dashboard
    start: Callable[[Action], object]
    """Begins an action; it calls :meth:`act`."""
    view: Selection = field(default_factory=Selection)
    mode: Mode = Mode.TABLE
    opened: OneRun | None = None
    scroll: int = 0
    message: str = ""
    """What the last action came to; shown until the next key."""
    ids: list[str] = field(default_factory=list[str])
    """The calls and runs on the screen, in their order."""

    async def look(self) -> None:
        """Read everything anew. An error is shown, and what was seen before stays."""
        try:
            self.dashboard = await look(self.config)
            if self.opened is not None:
                self.opened = await look_at_run(self.config, self.opened.run.id)
        except HeadwayError as error:
            self.message = one_line(str(error))

    async def act(self, action: Action) -> None:
        """Carry out what a key asked for. An error is shown."""
        self.message = action.asked
        try:
            async with Headway(self.path) as headway:
                self.message = await action.do(headway)
        except HeadwayError as error:
            self.message = one_line(str(error))
        await self.look()

    def lines(self, width: int, height: int) -> list[Line]:
        """Draw the screen as it is now."""
        match self.mode:
            case Mode.HELP:
                return [line for key, words in HELP for line in _explained(key, words, width)]
            case Mode.RUN if self.opened is not None:
                return draw_run(self.opened, width, height, self.scroll, self.message)
            case _:
                self.view.foot = self._foot()
                picture = draw(self.dashboard, self.view, width, height, self.limit)
                self.ids = picture.ids
                if self.ids and self.view.selected not in self.ids:
                    self.view.selected = self.ids[0]  # who was there is gone
                    return draw(self.dashboard, self.view, width, height, self.limit).lines
                return picture.lines

    async def press(self, key: str) -> bool:
        """Do what a key means; whether to go on."""
        self.message = ""
        match self.mode:
            case Mode.TABLE:
                return await self._in_table(key)
            case Mode.HELP:
                self.mode = Mode.TABLE
            case Mode.RUN:
                return self._in_run(key)
            case Mode.FILTER:
                self._in_filter(key)
            case Mode.PAUSE:
                self._in_pause(key)
            case Mode.BUMP:
                self._in_bump(key)
            case _:
                assert_never(self.mode)
        return True

    # What keys mean

    async def _in_table(self, key: str) -> bool:
        view = self.view
        self._move(STEPS.get(key, 0))
        match key:
            case "q":
                return False
            case "?" | "h":
                self.mode = Mode.HELP
            case "s":
                order = list(Sort)
                view.sort = order[(order.index(view.sort) + 1) % len(order)]
            case "f" | "/":
                self.mode = Mode.FILTER
            case "escape":
                view.filter = ""
            case "enter":
                await self._open()
            case "p":
                self.mode = Mode.PAUSE
            case "b" if view.selected is not None:
                self.mode = Mode.BUMP
            case _:
                pass  # it means nothing here
        return True

    def _in_run(self, key: str) -> bool:
        match key:
            case "q":
                return False
            case "escape" | "enter" | "backspace":
                self.mode, self.opened = Mode.TABLE, None
            case "p":
                self.mode = Mode.PAUSE
            case "b":
                self.mode = Mode.BUMP
            case _:
                self.scroll = max(0, self.scroll + STEPS.get(key, 0))
        return True

    def _in_filter(self, key: str) -> None:
        match key:
            case "enter":
                self.mode = Mode.TABLE
            case "escape":
                self.view.filter, self.mode = "", Mode.TABLE
            case "backspace":
                self.view.filter = self.view.filter[:-1]
            case _ if len(key) == 1:
                self.view.filter += key
            case _:
                pass

    def _in_pause(self, key: str) -> None:
        self._back()
        if (target := self._targets().get(key)) is not None:
            self.start(_pausing(target, is_run=key == "r", is_held=self._is_held(target)))

    def _in_bump(self, key: str) -> None:
        self._back()
        target = self._subject()
        if target is not None and key in "12345":
            self.start(_bumping(target, list(Priority)[int(key) - 1]))

    # Their effects

    def _back(self) -> None:
        self.mode = Mode.TABLE if self.opened is None else Mode.RUN

    def _move(self, step: int) -> None:
        if self.ids:
            place = self.ids.index(self.view.selected) if self.view.selected in self.ids else 0
            self.view.selected = self.ids[max(0, min(len(self.ids) - 1, place + step))]

    async def _open(self) -> None:
        if self.view.selected is not None:
            run_id = self.view.selected.partition(".")[0]
            try:
                self.opened = await look_at_run(self.config, run_id)
            except HeadwayError as error:
                self.message = one_line(str(error))
            else:
                self.mode, self.scroll = Mode.RUN, 0

    # What they are about

    def _subject(self) -> str | None:
        return self.view.selected if self.opened is None else self.opened.run.id

    def _targets(self) -> dict[str, str]:
        """What may be paused, by its key, as ``headway queue pause`` and ``runs pause`` call it."""
        found = {"a": ALL}
        subject = self._subject()
        if subject is None:
            return found
        call = next((x.call for x in self.dashboard.queue.calls if x.call.id == subject), None)
        run_id = subject.partition(".")[0]
        run = next((each for each in self.dashboard.runs if each.id == run_id), None)
        if (asks := call or run) is not None:
            found["c"] = f"class:{asks.priority.label}"
        if call is not None:
            found["m"] = f"model:{call.model}"
        found["r"] = run_id
        return found

    def _is_held(self, target: str) -> bool:
        return any(hold.target == target for hold in self.dashboard.holds)

    def _foot(self) -> str:
        if self.message:
            return self.message
        match self.mode:
            case Mode.FILTER:
                return f"filter: {self.view.filter}▏  ⏎ done · Esc clear"
            case Mode.PAUSE:
                choices = (
                    f"{key} {'resume ' if self._is_held(target) else ''}{target}"
                    for key, target in self._targets().items()
                )
                return f"pause: {' · '.join(choices)} · Esc"
            case Mode.BUMP:
                classes = (f"{n} {each.label}" for n, each in enumerate(Priority, start=1))
                return f"{self._subject()}: {' · '.join(classes)} · Esc"
            case Mode.TABLE | Mode.HELP | Mode.RUN:
                sought = f": {self.view.filter}" if self.view.filter else ""
                keys = f"s sort: {self.view.sort} · f filter{sought}"
                return f"{keys} · p pause · b bump · ⏎ open · ? help · q quit"
            case _:
                assert_never(self.mode)


def _explained(key: str, words: str, width: int) -> list[Line]:
    """Write a line of the help, in as many as it needs."""
    first, *more = wrap(words, max(10, width - 11)) or [""]
    return [[(f"{key:<9}  ", HEAD), (first, "")], *([(" " * 11 + line, "")] for line in more)]


def _pausing(target: str, *, is_run: bool, is_held: bool) -> Action:
    async def do(headway: Headway) -> str:
        if is_run:
            run = await headway.pause(target)
            return f"{target} is {run.state}"
        change = await (headway.queue.resume if is_held else headway.queue.pause)(target)
        return f"{change.target} is {'open' if is_held else 'paused'} for every process"

    return Action(f"asked to {'resume' if is_held else 'pause'} {target}", do)


def _bumping(target: str, asked: Priority) -> Action:
    async def do(headway: Headway) -> str:
        return f"{target} is {(await headway.queue.bump(target, asked)).label}"

    return Action(f"asked to make {target} {asked.label}", do)


async def watch(config: Config, path: str | None, limit: int) -> None:
    """Show the system until ``q``. Raises StoreError if the first look fails."""
    console = Console(highlight=False, markup=False, emoji=False)
    seen = await look(config)
    async with anyio.create_task_group() as group:
        app = App(config, path, limit, seen, lambda action: group.start_soon(app.act, action))
        # No refresh by a thread: what it would draw changes meanwhile.
        with Keys() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
            rest = EVERY_SECONDS
            while await _watched(app, keys, live, rest):
                began = time.monotonic()
                await app.look()
                rest = max(EVERY_SECONDS, REST * (time.monotonic() - began))
        group.cancel_scope.cancel()


async def _watched(app: App, keys: Keys, live: Live, seconds: float) -> bool:
    """Let keys act for so long; whether to go on."""
    look_at = time.monotonic() + seconds
    while True:
        live.update(rendered(app.lines(*live.console.size)), refresh=True)
        wait = partial(keys.wait, look_at - time.monotonic())
        key = await to_thread.run_sync(wait, abandon_on_cancel=True)
        if key is None:
            return True
        if not await app.press(key):
            return False


def rendered(lines: list[Line]) -> Text:
    """Return lines for rich. As text, never as markup: what agents are called may be anything."""
    screen = Text("\n", no_wrap=True, overflow="crop", end="")
    return screen.join(Text.assemble(*line) for line in lines)
