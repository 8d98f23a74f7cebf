"""Defines a prompt as a chain of texts, each of which is stored once. Data only."""

from .data import Data


class Chunk(Data, frozen=True):
    """A text of prompts, stored once however many prompts have it."""

    hash: bytes
    """16 bytes, of the text."""
    text: str
    """The text itself."""


class ChainNode(Data, frozen=True):
    """A prompt, as a shorter prompt and one chunk more.

    The request hash of a call is the hex of the hash of its prompt's last node.
    """

    hash: bytes
    """16 bytes, of the parent's hash and the chunk's."""
    parent: bytes | None
    """The hash of the node before it; None for the first node of a prompt."""
    chunk: bytes
    """The hash of the chunk that this node adds."""


class Prompt(Data, frozen=True):
    """The part of a prompt that may not be on disk yet. Rows that are there already stay."""

    chunks: tuple[Chunk, ...] = ()
    """Texts, in the order of the prompt."""
    nodes: tuple[ChainNode, ...] = ()
    """Nodes, the first one of the prompt first."""


NO_PROMPT = Prompt()
