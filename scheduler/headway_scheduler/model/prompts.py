"""A prompt as a chain of texts, each of which is stored once. Data only."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Chunk:
    """A distinct text of prompts, stored once. ``hash`` has 16 bytes."""

    hash: bytes
    text: str


@dataclass(frozen=True, slots=True)
class ChainNode:
    """A prompt, as the prompt before it and one chunk more.

    A call's request hash is the hex of the ``hash`` of its prompt's last node.
    """

    hash: bytes
    parent: bytes | None
    chunk: bytes


@dataclass(frozen=True, slots=True)
class Prompt:
    """What of a prompt may not be on disk yet. What is there already is left as it is."""

    chunks: tuple[Chunk, ...] = ()
    nodes: tuple[ChainNode, ...] = ()


NO_PROMPT = Prompt()
