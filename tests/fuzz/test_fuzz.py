"""The fuzzer plays for a few seconds: odd inputs of guilty runs do not harm four bystanders.

``python -m benchmarks.fuzz`` plays for longer, and replays a seed that fails here.
"""

import hashlib
import logging
import os
import random
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import pytest
from benchmarks.fuzz import rows, world
from benchmarks.fuzz.answers import odd_answer
from benchmarks.fuzz.odd import Random
from hypothesis import given
from hypothesis import strategies as st

# AutoGen dumps what it got for its own log, and pydantic warns of it; tasks of its runtime that a
# BaseException ended raise again when they are collected.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Pydantic serializer warnings"),
]

SEEDS = st.integers(0, 10**6)
BLOCKS = (0, 1, 3, 4, 7, 11)


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    logging.disable(logging.CRITICAL)  # each odd answer has its line
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("quiet")
def test_nothing_odd_harms_a_bystander() -> None:
    # Another seed each time. A failure names it, and the fuzzer makes the same inputs from it.
    seed = random.SystemRandom().randrange(10**6)
    report = world.Report()
    with TemporaryDirectory() as folder:
        anyio.run(world.Chapter(seed, Path(folder), report).play, list(BLOCKS))
    assert {world.kind_of(block) for block in BLOCKS} == set(world.KINDS)
    assert (report.harmed, report.hangs, report.faults) == ([], [], []), f"seed {seed}"
    # Four ran alone, at least four beside guilty runs, and four after each of two restarts.
    assert report.bystanders >= 16
    assert {"tool faults", "code", "arguments", "rows"} <= set(report.inputs)
    assert {"answers", "streams", "vectors"} & set(report.inputs)  # a busy machine delivers few


def made(seeds: Iterable[int]) -> str:
    """A digest of what each seed makes."""
    digest = hashlib.sha256()
    for seed in seeds:
        for streamed in (False, True):
            answer = odd_answer(Random(f"{seed}"), streamed=streamed)
            digest.update(repr((answer.parts, answer.wait_seconds, answer.stalls)).encode())
        digest.update(repr(rows._statement(Random(seed), ["r-a"])).encode())
        digest.update(world.kind_of(seed).encode())
    return digest.hexdigest()


@given(seed=SEEDS)
def test_a_seed_has_the_same_inputs_again(seed: int) -> None:
    assert made([seed]) == made([seed])


def test_a_seed_has_the_same_inputs_in_another_process() -> None:
    code = "from tests.fuzz.test_fuzz import made; print(made(range(500)))"
    command = [sys.executable, "-c", code]
    other = [
        subprocess.run(
            command, env={**os.environ, "PYTHONHASHSEED": hash_seed}, capture_output=True, text=True
        )
        for hash_seed in ("1", "2")
    ]
    assert [each.stdout.strip() for each in other] == [made(range(500))] * 2, other[0].stderr


def test_kinds_take_turns() -> None:
    many = sum(world.KINDS.values())
    found = [world.kind_of(block) for block in range(many, 2 * many)]
    assert {kind: found.count(kind) for kind in world.KINDS} == world.KINDS
