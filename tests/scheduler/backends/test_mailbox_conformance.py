"""Conformance of mailboxes: one suite, run on every engine."""

from collections.abc import AsyncIterator, Collection

import anyio
import pytest
from tests.scheduler.backends.engines import Engine

from headway_scheduler.errors import StoreError
from headway_scheduler.model.batch import Answer, Batch, Lesson, Letter, OutboxRow
from headway_scheduler.model.runs import Worker
from headway_scheduler.ports import LEADER, READ_AT_ONCE, Mailbox, Term, UnreadableRow

pytestmark = pytest.mark.anyio


@pytest.fixture
async def term(engine: Engine) -> AsyncIterator[Term]:
    async with await engine.process().leadership().campaign("w-leader") as term:
        yield term


@pytest.fixture
async def sender(engine: Engine, term: Term) -> AsyncIterator[Mailbox]:
    mailbox = engine.process().mailbox()
    yield mailbox
    await mailbox.close()


@pytest.fixture
async def leader(engine: Engine, term: Term) -> AsyncIterator[Mailbox]:
    mailbox = engine.process().mailbox(term.epoch)
    yield mailbox
    await mailbox.close()


async def ids(
    mailbox: Mailbox, in_hand: Collection[int] = (), limit: int = READ_AT_ONCE
) -> list[int]:
    return [request.id for request in await mailbox.waiting(in_hand, limit)]


async def test_what_is_posted_waits_in_its_order(sender: Mailbox, leader: Mailbox) -> None:
    assert await ids(leader) == []
    posted = [await sender.post(f"c-{n % 2}", f"please {n}", durable=bool(n % 3)) for n in range(5)]
    assert list(await leader.waiting(())) == [
        Letter(request_id, f"c-{n % 2}", f"please {n}") for n, request_id in enumerate(posted)
    ]


async def test_what_is_in_hand_is_not_taken_again(sender: Mailbox, leader: Mailbox) -> None:
    first, second, third = [await sender.post("c-1", f"{n}") for n in range(3)]
    assert await ids(leader, limit=2) == [first, second]
    assert await ids(leader, {first, second}) == [third]
    assert await ids(leader, {first, second, third}) == []
    assert await ids(leader, {first, third}) == [second]  # it was not carried out after all
    fourth = await sender.post("c-1", "3")
    assert await ids(leader, {second}) == [first, third, fourth]


async def test_one_that_appears_under_a_lower_id_is_taken_too(
    engine: Engine, sender: Mailbox, leader: Mailbox
) -> None:
    """Other engines hand out ids before they commit."""
    late = await sender.post("c-1", "is answered")
    taken = await sender.post("c-2", "taken")
    in_hand = set(await ids(leader))
    assert in_hand == {late, taken}
    for request in (Letter(taken + 5, "c-3", "5"), Letter(taken + 1, "c-4", "1")):
        engine.appear(request)
        assert await ids(leader, in_hand) == [request.id]
        in_hand.add(request.id)


async def test_an_answer_ends_the_wait_and_the_first_one_stays(
    term: Term, sender: Mailbox, leader: Mailbox
) -> None:
    request_id, other = await sender.post("c-1", "please"), await sender.post("c-1", "and this")
    assert await sender.answer(request_id) is None
    assert await sender.is_waiting(request_id)
    assert await sender.is_waiting(other)
    await term.store.commit(Batch(answers=(Answer(request_id, "done"),)))
    await term.store.commit(Batch(answers=(Answer(request_id, "refused"),)))
    assert await sender.answer(request_id) == "done"
    assert await ids(leader) == [other]
    await term.store.commit(Batch(taken=(other,)))
    assert await ids(leader) == []
    with pytest.raises(StoreError, match="kept no longer"):
        await sender.answer(other)
    assert not await sender.is_waiting(request_id)
    assert not await sender.is_waiting(other)


async def test_answers_are_kept_for_a_while(term: Term, sender: Mailbox) -> None:
    first = await sender.post("c-1", "first")
    await term.store.commit(Batch(answers=(Answer(first, "done"),)))
    last = [await sender.post("c-1", "please") for _ in range(1000)]
    await term.store.commit(Batch(answers=tuple(Answer(each, "done") for each in last)))
    assert await sender.answer(last[1]) == "done"
    with pytest.raises(StoreError, match="kept no longer"):
        await sender.answer(first)


async def test_workers_are_told_in_order_and_what_they_have_read_goes(
    term: Term, sender: Mailbox
) -> None:
    joined = tuple(Worker(each, 1, 0.0) for each in ("w-1", "w-2"))
    told = (OutboxRow("w-1", "a"), OutboxRow("w-2", "b"), OutboxRow("w-1", "c"))
    await term.store.commit(Batch(joined=joined, outbox=told))
    (first, a), (second, c) = await sender.notifications("w-1", 0)
    assert (a, c, first < second) == ("a", "c", True)
    assert list(await sender.notifications("w-1", second)) == []
    await term.store.commit(Batch(outbox=(OutboxRow("w-1", "d"),), seen=(("w-1", first),)))
    ((third, d),) = await sender.notifications("w-1", second)
    assert (d, third > second) == ("d", True)


async def test_another_mailbox_reads_on_from_what_was_read(
    engine: Engine, term: Term, sender: Mailbox
) -> None:
    """As a worker's next process would; what the leader knows to be read is gone."""
    told = tuple(OutboxRow("w-1", text) for text in "abc")
    await term.store.commit(Batch(joined=(Worker("w-1", 1, 0.0),), outbox=told))
    (first, _), *_ = await sender.notifications("w-1", 0)
    other = engine.process().mailbox()
    assert [text for _, text in await other.notifications("w-1", first)] == ["b", "c"]
    await other.close()
    await term.store.commit(Batch(seen=(("w-1", first),)))
    last = engine.process().mailbox()
    assert [text for _, text in await last.notifications("w-1", 0)] == ["b", "c"]
    await last.close()


async def test_what_was_told_to_those_who_left_is_forgotten(term: Term, sender: Mailbox) -> None:
    joined = tuple(Worker(each, 1, 0.0) for each in ("w-1", "w-2"))
    await term.store.commit(
        Batch(joined=joined, outbox=(OutboxRow("w-1", "a"), OutboxRow("w-2", "b")))
    )
    await term.store.commit(Batch(left=("w-1",), outbox=(OutboxRow("w-1", "you left"),)))
    assert [text for _, text in await sender.notifications("w-1", 0)] == ["you left"]
    assert [text for _, text in await sender.notifications("w-2", 0)] == ["b"]


async def test_requests_of_many_that_are_read_as_they_come_are_each_taken_once(
    engine_or_deaf: Engine,
) -> None:
    """By whoever listens beside it, whether or not it is rung."""
    taken: list[Letter] = []
    backend = engine_or_deaf.process()

    async def read(mailbox: Mailbox, group: anyio.abc.TaskGroup) -> None:
        in_hand: set[int] = set()
        async with backend.notifier(LEADER) as notifier:
            while len(taken) < 60:
                requests = await mailbox.waiting(in_hand, 10)
                in_hand |= {request.id for request in requests}
                taken.extend(requests)
                if len(requests) < 10 and len(taken) < 60:
                    await notifier.wait()
        group.cancel_scope.cancel()

    async def post(name: str) -> None:
        mailbox = engine_or_deaf.process().mailbox()
        for n in range(20):
            await mailbox.post(name, f"{n}")
        await mailbox.close()

    async with await backend.leadership().campaign("w-leader") as term:
        mailbox = backend.mailbox(term.epoch)
        async with anyio.create_task_group() as group:
            group.start_soon(read, mailbox, group)
            async with anyio.create_task_group() as senders:
                for name in ("c-1", "c-2", "c-3"):
                    senders.start_soon(post, name)
            await anyio.sleep_forever()
        await mailbox.close()
    assert len({request.id for request in taken}) == len(taken) == 60
    for name in ("c-1", "c-2", "c-3"):
        texts = [request.event for request in taken if request.sender == name]
        assert texts == [f"{n}" for n in range(20)]


async def test_a_request_says_how_many_leaders_began_with_it(
    sender: Mailbox, leader: Mailbox, term: Term
) -> None:
    first, second = [await sender.post("c-1", f"{n}") for n in range(2)]
    await term.store.commit(Batch(tried=((first, 2), (second, 1), (second + 9, 1))))
    assert [request.tries for request in await leader.waiting(())] == [2, 1]


async def test_a_request_that_is_set_aside_is_kept(
    engine: Engine, sender: Mailbox, leader: Mailbox, term: Term
) -> None:
    first, second = [await sender.post(who, "words") for who in ("c-1", "w-1")]
    aside = ((first, "why"), (second, "\ud800"))
    await term.store.commit(Batch(answers=(Answer(first, "no"),), taken=(second,), set_aside=aside))
    assert await ids(leader) == []
    assert await sender.answer(first) == "no"
    kept = await engine.process().maintenance().set_aside()
    assert list(kept) == [
        UnreadableRow("request", f"{first} of c-1", "why"),
        UnreadableRow("request", f"{second} of w-1", "\ud800"),
    ]


async def test_half_a_character_in_a_commit_changes_nothing_for_what_goes_with_it(
    sender: Mailbox, leader: Mailbox, term: Term
) -> None:
    """Such a text needs another way into SQLite, and all texts of its commit take that way."""
    for worker in ("w-1", "w-2"):
        await term.store.commit(Batch(joined=(Worker(worker, 1, 1.0),)))
        await term.store.commit(Batch(outbox=(OutboxRow(worker, "read"),)))
    ((read, _),) = await sender.notifications("w-1", 0)
    asked = await sender.post("c-1", "words")
    await term.store.commit(
        Batch(
            lessons=(Lesson("tokens", "\ud800", "{}"),),
            answers=(Answer(asked, "done"),),
            seen=(("w-1", read),),
            outbox=(OutboxRow("w-1", "next"),),
            left=("w-2",),
        )
    )
    assert await sender.answer(asked) == "done"
    assert [text for _, text in await leader.notifications("w-1", 0)] == ["next"]
    assert [worker.id for worker in await term.store.workers()] == ["w-1"]


async def test_it_may_be_connected_before_the_first_question(
    sender: Mailbox, leader: Mailbox
) -> None:
    for _ in range(2):
        await sender.connect()
        await leader.connect()
    posted = await sender.post("c-1", "please")
    assert await ids(leader) == [posted]
