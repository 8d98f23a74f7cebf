"""Sends raw answers on loopback. A request says which input it is: ``input N`` in its text.

No HTTP library is in it: what a client gets are the bytes that a generator made.
"""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from .answers import RawAnswer, completion, odd_answer, plain, tool_calls
from .odd import Random, json_value, text, written

_INPUT = re.compile(rb"input (\d+) in")
_TOOLS = re.compile(rb"tools (\d+) to (\d+) in")
TOOLS_AT_ONCE = 10
MOST_STALL_SECONDS = 5.0


@dataclass
class RawProvider:
    """What was sent, by kind. ``url`` is the address, once it is open."""

    seed: int
    url: str = ""
    sent: Counter[str] = field(default_factory=Counter)
    attempts: Counter[int] = field(default_factory=Counter)
    tools: Counter[int] = field(default_factory=Counter)

    @asynccontextmanager
    async def open(self) -> AsyncIterator["RawProvider"]:
        """Answer until the block ends."""
        tasks: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            try:
                with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                    await self._serve(reader, writer)
            finally:
                tasks.discard(task)
                writer.close()

        server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=2**20)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        try:
            yield self
        finally:
            server.close()
            for task in list(tasks):
                task.cancel()
            if tasks:
                await asyncio.wait(list(tasks), timeout=5)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        found = re.search(rb"content-length: (\d+)", head.lower())
        body = await reader.readexactly(int(found[1])) if found else b""
        answer = self._answer(head, body)
        for number, part in enumerate(answer.parts):
            if number and answer.wait_seconds:
                await asyncio.sleep(answer.wait_seconds)
            writer.write(part)
            await writer.drain()
        if answer.stalls:
            with suppress(TimeoutError):
                await asyncio.wait_for(reader.read(), MOST_STALL_SECONDS)

    def _answer(self, head: bytes, body: bytes) -> RawAnswer:
        if found := _INPUT.search(body):
            number = int(found[1])
            attempt = self.attempts[number]
            self.attempts[number] += 1
            streamed = b'"stream":true' in body or b'"stream": true' in body
            vectors = b"/embeddings" in head[:200]
            kind = "streams" if streamed else "vectors" if vectors else "answers"
            self.sent[kind] += attempt == 0
            rng = Random(f"{self.seed} answer {number} {attempt}")
            return odd_answer(rng, streamed=streamed, vectors=vectors)
        if found := _TOOLS.search(body):
            first, end = int(found[1]), int(found[2])
            number = first + self.tools[first]
            if number >= end:
                return plain(completion("done"))
            many = min(TOOLS_AT_ONCE, end - number)
            self.tools[first] += many
            self.sent["tool faults"] += many
            return plain(tool_calls([self._tool_call(n) for n in range(number, number + many)]))
        return plain(completion())

    def _tool_call(self, number: int) -> tuple[str, str]:
        """A call of the tool that misbehaves as ``number`` says; its arguments are odd too."""
        rng = Random(f"{self.seed} arguments {number}")
        odd = rng.random()
        if odd < 0.7:
            return "misbehave", f'{{"number": {number}}}'
        if odd < 0.8:
            return text(rng)[:64], "{}"
        return "misbehave", written(json_value(rng), rng)[:50_000]
