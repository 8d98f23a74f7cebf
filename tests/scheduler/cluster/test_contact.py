"""A worker goes by its last answered heartbeat, not by its clock."""

import time
from collections.abc import Callable
from typing import Self

import anyio
import pytest

from headway_scheduler.cluster import contact as module
from headway_scheduler.cluster.contact import CONTACT_SECONDS, Contact
from headway_scheduler.errors import StoreBusy, StoreTakenOver

pytestmark = pytest.mark.anyio


class Line:
    """A presence whose heartbeats are answered as a test wants it."""

    def __init__(self) -> None:
        self.contact_at = time.monotonic()
        self.confirmed = 0
        self.answer: Callable[[], float] = time.monotonic

    async def confirm(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.confirmed += 1
        self.contact_at = self.answer()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


@pytest.fixture
def line() -> Line:
    return Line()


def old() -> float:
    return time.monotonic() - CONTACT_SECONDS - 1


async def listed() -> bool:
    """The leader took the request to list the worker."""
    return False


async def test_nobody_is_asked_while_contact_is_young(line: Line) -> None:
    line.contact_at = time.monotonic() - CONTACT_SECONDS + 5
    await Contact(line, old, listed).renew()
    assert line.confirmed == 0


async def test_one_that_has_not_joined_is_in_contact(line: Line) -> None:
    line.contact_at = old()
    await Contact(line, lambda: None, listed).renew()
    assert line.confirmed == 0


async def test_one_that_joined_just_now_is_in_contact(line: Line) -> None:
    line.contact_at = old()
    await Contact(line, time.monotonic, listed).renew()
    assert line.confirmed == 0


async def test_one_that_waits_to_be_listed_has_no_runs_to_lose(line: Line) -> None:
    """A leader that is busy may take its first request after more than 10 s."""
    looks = iter([True, False])

    async def waits() -> bool:
        return next(looks)

    contact = Contact(line, old, waits)
    line.contact_at = old()
    await contact.renew()
    await contact.renew()
    assert (line.confirmed, next(looks)) == (0, False)
    contact._not_listed_at = old()
    looks = iter([False])
    await contact.renew()
    assert line.confirmed == 1


async def test_old_contact_is_renewed(line: Line) -> None:
    line.contact_at = old()
    await Contact(line, old, listed).renew()
    assert line.confirmed == 1


async def test_an_answer_that_is_old_when_it_comes_is_none(line: Line) -> None:
    """A process may be stopped while it waits for it."""
    answers = iter([old(), old(), time.monotonic()])
    line.contact_at, line.answer = old(), lambda: next(answers)
    await Contact(line, old, listed).renew()
    assert line.confirmed == 3


async def test_the_watch_ends_when_others_took_it_for_dead_and_not_before(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.001)
    line.contact_at = old()

    def fail_at_first() -> float:
        if line.confirmed < 3:
            raise StoreBusy("another program keeps it locked")
        raise StoreTakenOver("others took it for dead")

    line.answer = fail_at_first
    with pytest.raises(StoreTakenOver):
        await Contact(line, old, listed).watch()
    assert line.confirmed == 3
