"""Makes embeddings in which texts that share words lie close together. Pure.

The hash of a word picks a direction; a text is the sum of its words, scaled to length 1.
"""

import base64
import hashlib
import math
import re
import struct
from typing import Any

from .request import Asked, Body, Input

DIMENSIONS = 64


def embeddings(asked: Asked) -> Body:
    """Return the body of an answer to a request for embeddings."""
    assert asked.inputs is not None
    dimensions = asked.body.get("dimensions") or DIMENSIONS
    is_packed = asked.body.get("encoding_format") == "base64"
    vectors = [vector(one, dimensions) for one in asked.inputs]
    data = [
        {"object": "embedding", "index": index, "embedding": _packed(one) if is_packed else one}
        for index, one in enumerate(vectors)
    ]
    usage = {"prompt_tokens": asked.prompt_tokens, "total_tokens": asked.prompt_tokens}
    return {"object": "list", "data": data, "model": asked.model, "usage": usage}


def vector(given: Input, dimensions: int = DIMENSIONS) -> list[float]:
    """Return the embedding of a text, or of tokens."""
    words = re.findall(r"\w+", given.lower()) if isinstance(given, str) else map(str, given)
    total = [0.0] * dimensions
    for word in words:
        for place, sign in _direction(word, dimensions):
            total[place] += sign
    length = math.hypot(*total) or 1.0
    return [number / length for number in total]


def _direction(word: str, dimensions: int) -> list[tuple[int, float]]:
    """Return eight (place, sign) pairs, which may name a place twice."""
    digest = hashlib.sha256(word.encode()).digest()
    threes = zip(digest[::4], digest[1::4], digest[2::4], strict=False)
    return [((a * 256 + b) % dimensions, 1.0 if sign % 2 else -1.0) for a, b, sign in threes]


def _packed(numbers: list[float]) -> Any:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()
