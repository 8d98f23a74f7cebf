"""Calls outside of runs: their runs end while the program goes on, and its memory stays flat."""

import gc
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from autogen_core.models import ChatCompletionClient, CreateResult, UserMessage
from autogen_ext.models.replay import ReplayChatCompletionClient

from headway import Headway, RunState, ad_hoc
from headway.testing import simulated_headway

pytestmark = pytest.mark.anyio

PROMPTS = 20
"""How many calls are in flight at once."""


class Forgetful(ReplayChatCompletionClient):
    """AutoGen's own keeps every call that it was asked, for tests to look at."""

    async def create(self, *args: Any, **more: Any) -> CreateResult:
        self.reset()
        self._create_calls.clear()
        return await super().create(*args, **more)


async def ask(client: ChatCompletionClient, numbers: Sequence[int]) -> None:
    for first in range(0, len(numbers), PROMPTS):
        async with anyio.create_task_group() as group:
            for number in numbers[first : first + PROMPTS]:
                message = UserMessage(content=f"Question {number}?", source="user")
                group.start_soon(client.create, [message])


async def test_their_runs_end_and_can_be_pruned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ad_hoc, "MOST_CALLS", 5)
    async with simulated_headway() as hw:
        client = hw.model("sim")
        for number in range(17):
            await ask(client, [number])
        runs = await hw.list_runs()
        # The last but one stays open: a stream of it may have been asked for, and not be read yet.
        assert [run.state for run in runs] == [RunState.RUNNING] * 2 + [RunState.COMPLETED] * 2
        assert [len(await hw.list_calls(run.id)) for run in runs] == [2, 5, 5, 5]
        assert set(await hw.prune(keep=0)) == {run.id for run in runs[2:]}
        await ask(client, [17])  # its prompt is on disk, though the others' are gone
        (record, *_) = reversed(await hw.list_calls(runs[0].id))
        prompt = await hw._opened.store.prompt(record.call.request_hash)
        assert prompt is not None
        assert "Question 17?" in "".join(prompt)


async def test_a_stream_that_is_read_late_still_has_its_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ad_hoc, "MOST_CALLS", 5)
    async with simulated_headway() as hw:
        client = hw.model("sim")
        late = client.create_stream([UserMessage(content="Late.", source="user")])
        for number in range(8):
            await ask(client, [number])
        said = [each async for each in late]
        assert isinstance(said[-1], CreateResult)


async def test_the_memory_of_a_program_that_asks_for_long_is_flat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10,000 calls may add 2 MB to what the first 1,000 took. Here are a fifth of them."""
    monkeypatch.setattr(ad_hoc, "MOST_CALLS", 200)
    (tmp_path / "headway.toml").write_text(
        '[database]\npath = "headway.db"\n[quotas.default]\nrequests_per_minute = 1_000_000\n'
    )
    async with Headway(tmp_path / "headway.toml") as hw:
        client = hw.model(Forgetful(["Yes."]))
        await ask(client, range(300))
        gc.collect()
        tracemalloc.start()
        try:
            await ask(client, range(300, 500))
            gc.collect()
            before, _ = tracemalloc.get_traced_memory()
            await ask(client, range(500, 2_500))
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert after - before <= 2_000_000 / 9_000 * 2_000
