"""Tells the world outside what happened: by an HTTP POST, or to a command. Only the leader does.

Law of this file: a notice is deleted once its receiver said that it has it, and not before. Killed
in between, the next leader tells it again, under the same id.

Theory of operation. Notices are rows of the commit that made them so (``core/notices.py``). The
sender reads them, a few at once, those that were never tried first. A receiver that does not take
one is tried again later and later, for a day. Nobody waits for a receiver, but the end of the
leader, for a moment, so that a program which ends after its run has it told.

A POST is as Standard Webhooks has it: three headers, of which the signature is an HMAC-SHA256 over
id, time and body.
"""

import base64
import binascii
import hashlib
import hmac
import json
import logging
import os
import shlex
import signal
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from math import inf
from subprocess import DEVNULL, PIPE
from urllib.parse import urlsplit

import anyio

from headway_scheduler.errors import CallerError, HeadwayError, StoreError
from headway_scheduler.model.batch import Batch
from headway_scheduler.model.data import replace
from headway_scheduler.model.notices import Notice, NoticeKind
from headway_scheduler.ports import Store
from headway_scheduler.runtime.local import LocalScheduler

from ..config import NotifyConfig
from ..runs.stopped import question_of, question_text

TELLING_SECONDS = 15.0
"""How long a receiver may take, as Standard Webhooks recommends."""
CLOSING_SECONDS = 3.0
"""How long the end of the leader waits for a receiver."""
FIRST_PAUSE_SECONDS = 5.0
"""How long after a failure it is tried again; each time three times as long,"""
LONGEST_PAUSE_SECONDS = 10_800.0
"""and this at most,"""
GIVES_UP_SECONDS = 86_400.0
"""until so long after it happened."""
AT_ONCE = 4
"""How many are told at once."""
MOST_NOTICES = 1_000
"""The most that wait; of more, the oldest are given up."""
LONGEST_QUESTION = 2_000
"""The most characters of a question."""
SECRET = "whsec_"
"""How a secret begins; base64 follows."""

_log = logging.getLogger("headway")


class NotTold(Exception):
    """The receiver did not take a notice. The message holds nothing that is secret."""


class NoticeSender:
    """Tells what happened, for the leader."""

    def __init__(self, scheduler: LocalScheduler, store: Store, notify: NotifyConfig) -> None:
        self._scheduler = scheduler
        self._store = store
        self._notify = notify
        self._changed = anyio.Event()
        self._turning = anyio.Lock()
        self._fresh: set[str] = set()
        """What this leader's commits made so, and was not tried yet."""
        self._problem = ""
        """Why the last one was not told; empty if it was."""

    def committed(self, notices: Iterable[Notice]) -> None:
        """Look: a commit has written notices. It may not await."""
        self._fresh |= {notice.id for notice in notices if not notice.attempts}
        self._changed.set()
        self._changed = anyio.Event()

    async def serve(self) -> None:
        """Tell what there is to tell, until cancelled. Raises StoreError."""
        while True:
            changed = self._changed  # before the look: a change during it is not missed
            next_at = await self._turn()
            seconds = None if next_at == inf else max(0.0, next_at - self._scheduler.now())
            with anyio.move_on_after(seconds):
                await changed.wait()

    async def finish(self) -> None:
        """Tell what happened in this leader, before it ends; not for long."""
        with anyio.move_on_after(CLOSING_SECONDS, shield=True), suppress(HeadwayError):
            while self._fresh:
                await self._turn()

    async def _turn(self) -> float:
        """Tell some that are due; return when the next ones are, in epoch seconds."""
        async with self._turning:
            fresh = set(self._fresh)  # before the read, in which later ones may not be
            notices = await self._store.notices(limit=2 * MOST_NOTICES)
            if surplus := notices[:-MOST_NOTICES]:
                _log.error("%d notices are given up: %s", len(surplus), self._problem or "too many")
                await self._scheduler.write(Batch(told=tuple(each.id for each in surplus)))
            self._fresh -= fresh - {notice.id for notice in notices[-MOST_NOTICES:]}
            now = self._scheduler.now()
            waiting = sorted(notices[-MOST_NOTICES:], key=lambda each: (each.attempts, each.at))
            due = [each for each in waiting if each.not_before <= now]
            if not due:
                return min((each.not_before for each in waiting), default=inf)
            if problem := self._secret_problem():
                self._note(problem)
                self._fresh.clear()
                return inf  # a leader that has the secret tells them
            await self._tell_all(due[:AT_ONCE])
            return now

    async def _tell_all(self, notices: Sequence[Notice]) -> None:
        """Tell some at once. Raises HeadwayError if what came of it cannot be written."""
        errors: list[HeadwayError] = []

        async def tell(notice: Notice) -> None:
            try:
                await self._tell(notice)
            except HeadwayError as error:
                errors.append(error)

        async with anyio.create_task_group() as group:
            for notice in notices:
                group.start_soon(tell, notice, name=f"headway notice {notice.id}")
        if errors:
            raise errors[0]

    async def _tell(self, notice: Notice) -> None:
        try:
            body = await self._body(notice)
            if body is not None:
                with anyio.fail_after(TELLING_SECONDS):
                    await self._deliver(notice, body)
        except (NotTold, TimeoutError) as error:
            problem = str(error) or f"no answer within {TELLING_SECONDS:g} s"
        except HeadwayError:
            raise
        except Exception as error:  # of a row that no Headway wrote: it may hold anything
            problem = f"it cannot be said ({type(error).__name__})"
        else:
            self._note("")
            await self._scheduler.write(Batch(told=(notice.id,)))
            self._fresh.discard(notice.id)
            return
        self._fresh.discard(notice.id)
        self._note(problem)
        now = self._scheduler.now()
        if now - notice.at >= GIVES_UP_SECONDS:
            _log.error("notice %s is given up: %s", notice.id, problem)
            await self._scheduler.write(Batch(told=(notice.id,)))
            return
        pause = min(FIRST_PAUSE_SECONDS * 3.0 ** min(notice.attempts, 20), LONGEST_PAUSE_SECONDS)
        again = replace(notice, attempts=notice.attempts + 1, not_before=now + pause)
        await self._scheduler.write(Batch(notices=(again,)))

    async def _body(self, notice: Notice) -> bytes | None:
        """Return what is sent; None for a question that was answered meanwhile."""
        data = json.loads(notice.data)
        if notice.kind is NoticeKind.PERSON_ASKED:
            with suppress(StoreError):
                run = await self._store.run(data["run"])
                record = None if run is None else await question_of(self._store, run)
                if record is None:
                    return None
                chunks = await self._store.prompt(record.call.request_hash) or ()
                data["question"] = question_text(record, chunks)[:LONGEST_QUESTION]
        at = datetime.fromtimestamp(notice.at, UTC).isoformat()
        told = {"id": notice.id, "type": notice.kind.value, "timestamp": at, "data": data}
        return json.dumps(told).encode()

    async def _deliver(self, notice: Notice, body: bytes) -> None:
        """Raises NotTold."""
        if self._notify.url is not None:
            assert self._notify.secret_env is not None
            key = secret_of(os.environ[self._notify.secret_env])
            await _post(self._notify.url, signed(key, notice.id, int(time.time()), body), body)
        elif self._notify.command is not None:
            await _run(shlex.split(self._notify.command), body)

    def _secret_problem(self) -> str:
        """Say why nothing can be signed; empty if it can be, or need not."""
        name = self._notify.secret_env
        if self._notify.url is None or name is None:
            return ""
        try:
            secret_of(os.environ.get(name, ""))
        except CallerError as error:
            return f"{name} {error}"
        return ""

    def _note(self, problem: str) -> None:
        """Say when telling begins to fail, and when it works again; once each."""
        if problem and not self._problem:
            receiver = "the command"
            if self._notify.url is not None:
                receiver = urlsplit(self._notify.url).netloc
            _log.warning("%s of [notify] is not told: %s; it is tried again", receiver, problem)
        elif self._problem and not problem:
            _log.info("what [notify] asks for is told again")
        self._problem = problem


def secret_of(text: str) -> bytes:
    """Return the key of a secret. Raises CallerError, which says how to make one."""
    with suppress(binascii.Error, ValueError):
        if text.startswith(SECRET):
            key = base64.b64decode(text.removeprefix(SECRET), validate=True)
            if 24 <= len(key) <= 64:
                return key
    raise CallerError(
        "must hold whsec_ and then 24 to 64 random bytes as base64: python -c 'import base64, "
        'secrets; print("whsec_" + base64.b64encode(secrets.token_bytes(32)).decode())\''
    )


def signed(key: bytes, notice_id: str, at: int, body: bytes) -> dict[str, str]:
    """Return the headers of Standard Webhooks. ``at``: when it is sent, in epoch seconds."""
    said = b".".join((notice_id.encode(), str(at).encode(), body))
    digest = base64.b64encode(hmac.new(key, said, hashlib.sha256).digest()).decode()
    return {
        "content-type": "application/json",
        "user-agent": "headway",
        "webhook-id": notice_id,
        "webhook-timestamp": str(at),
        "webhook-signature": f"v1,{digest}",
    }


async def _post(url: str, headers: dict[str, str], body: bytes) -> None:
    """Post a body. Raises NotTold unless it is answered by a 2xx; nothing more of it is read."""
    import httpx  # 50 ms that a leader without receivers need not spend

    try:
        async with (
            httpx.AsyncClient(timeout=TELLING_SECONDS) as client,
            client.stream("POST", url, content=body, headers=headers) as answer,
        ):
            status = answer.status_code
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        # Not its words: they may hold the address, and a part of it may be a secret.
        raise NotTold(f"no answer ({type(error).__name__})") from None
    if not 200 <= status < 300:
        raise NotTold(f"it answered {status}")


async def _run(words: Sequence[str], body: bytes) -> None:
    """Run a command with a body on its standard input. Raises NotTold unless it exits with 0."""
    try:
        process = await anyio.open_process(
            words, stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL, start_new_session=True
        )
    except OSError as error:
        raise NotTold(f"it cannot be run: {error.strerror}") from None
    try:
        assert process.stdin is not None
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            await process.stdin.send(body)  # a command need not read it
            await process.stdin.aclose()
        status = await process.wait()
    finally:
        if process.returncode is None:  # with all that it started: it is over its time
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        with anyio.CancelScope(shield=True):
            await process.aclose()
    if status:
        raise NotTold(f"it exited with {status}")
