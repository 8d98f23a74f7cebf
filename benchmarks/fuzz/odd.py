"""Odd values, and what mutation makes of good ones. Law: a ``random.Random`` alone decides.

No value here is a word that a good request could have (``all``, a good model's name), because an
operator's request that is valid is carried out, and then it is no fault that others notice.
"""

import json
import random
from typing import Any

Random = random.Random

LONG = "x" * 20_000
TEXTS = (
    "",
    " ",
    "\x00",
    "x",
    "\ud83d",
    "half \udc00 pair",
    "\u202eltr",
    "é" * 300,
    "'; DROP TABLE runs; --",
    "${jndi}",
    "%s%n",
    "NaN",
    "-1",
    "1e999",
    "٣",
    "../../etc",
    "a\nb\r\nc",
    LONG,
    "r-",
    "r-zzzz.1",
    "class:bogus",
    "model:nobody",
)
INTEGERS = (0, 1, -1, 2, 7, 2**31, 2**53 + 1, 2**63 - 1, -(2**63), 2**63, 10**30)
SQL_INTEGERS = tuple(each for each in INTEGERS if -(2**63) <= each < 2**63)
FLOATS = (0.0, -0.0, 0.5, 5.5, -1.0, 1e-300, 1e300, float("inf"), float("-inf"), float("nan"))
RAW_NUMBERS = (
    *("NaN", "Infinity", "-Infinity", "5.5", "-1", "-0", "1e3", "1e999", "-1e999", "1E400"),
    *(str(2**63), str(10**30), "9" * 400, "9" * 5_000, "true", "null", '"12"', '"x"', "[]", "{}"),
    *('"NaN"', "[1]", '{"a":1}', "0", "1", "17", '"\\ud83d"', "0.1e-400", '"' + "1" * 70 + '"'),
)
"""What stands where a number belongs, as the text of a JSON value."""


class Raw(str):
    """JSON text that is put into a body as it is."""

    __slots__ = ()


class Rude:
    """Raises at whatever is asked of it."""

    def _raise(self, *_: object) -> Any:
        raise RuntimeError("rude")

    __str__ = __repr__ = __len__ = __iter__ = __bool__ = __float__ = __eq__ = _raise
    __hash__ = None  # type: ignore[assignment]


def text(rng: Random) -> str:
    """An odd text, or random characters."""
    if rng.random() < 0.7:
        return rng.choice(TEXTS)
    return "".join(chr(rng.choice((rng.randrange(128), rng.randrange(0x11000)))) for _ in range(9))


def json_value(rng: Random, depth: int = 0) -> Any:
    """Any value that JSON may hold, and numbers that it may not."""
    kind = rng.randrange(8)
    if kind == 0:
        return Raw(rng.choice(RAW_NUMBERS))
    if kind == 1:
        return text(rng)
    if kind == 2:
        return rng.choice((None, True, False))
    if kind == 3:
        return rng.choice(INTEGERS)
    if kind == 4 and depth < 3:
        return [json_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 5 and depth < 3:
        return {text(rng)[:40]: json_value(rng, depth + 1) for _ in range(rng.randrange(4))}
    if kind == 6 and rng.random() < 0.2:
        deep = rng.choice((50, 900, 3_000, 20_000))
        opening, closing = rng.choice((("[", "]"), ('{"a":', "}")))
        return Raw(opening * deep + "1" * (closing == "}") + closing * deep)
    return rng.randrange(1000)


def mutated(value: Any, rng: Random) -> Any:
    """A copy of a JSON tree in which one place is another value, gone, or under another name."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        value, key = dict(value), rng.choice(list(value))
        act = rng.random()
        if act < 0.6:
            value[key] = mutated(value[key], rng)
        elif act < 0.75:
            value[key] = json_value(rng)
        elif act < 0.9:
            del value[key]
        else:
            value[text(rng)[:40]] = value.pop(key)
        return value
    if isinstance(value, list) and value and rng.random() < 0.85:
        value, place = list(value), rng.randrange(len(value))
        act = rng.random()
        if act < 0.6:
            value[place] = mutated(value[place], rng)
        elif act < 0.8:
            value[place] = json_value(rng)
        else:
            value = value * 2 if act < 0.9 else value[:place]
        return value
    return json_value(rng)


def written(value: Any, rng: Random) -> str:
    """JSON, with raw parts as they are."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        inner = (f"{json.dumps(str(k))}:{written(v, rng)}" for k, v in value.items())
        return "{" + ",".join(inner) + "}"
    if isinstance(value, list):
        return "[" + ",".join(written(each, rng) for each in value) + "]"
    return json.dumps(value)


def spoiled(data: bytes, rng: Random) -> bytes:
    """Bytes of which some are others, gone, twice, or new."""
    for _ in range(rng.randrange(1, 4)):
        at, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        act = rng.randrange(6)
        if act == 0:
            data = data[:at]
        elif act == 1:
            data = data[:at] + rng.randbytes(rng.randrange(1, 9)) + data[at:]
        elif act == 2:
            data = data[:at] + rng.randbytes(1) + data[at + 1 :]
        elif act == 3:
            data = data[:at] + data[end:]
        elif act == 4:
            data = data[:end] + data[at:end][:2_000] + data[end:]
        else:
            odd = (b"\xff\xfe", b"\x00", b"\xef\xbb\xbf", b"\r", b"\n\n", b"\xed\xa0\xbd", b'"')
            data = data[:at] + rng.choice(odd) + data[at:]
    return data


def python_value(rng: Random) -> Any:  # noqa: C901 -- a table of kinds
    """Any object that a caller might pass."""
    kind = rng.randrange(12)
    if kind == 0:
        return text(rng)
    if kind == 1:
        return rng.choice(INTEGERS)
    if kind == 2:
        return rng.choice(FLOATS)
    if kind == 3:
        return rng.choice((None, True, False, ..., NotImplemented))
    if kind == 4:
        return rng.randbytes(rng.randrange(5))
    if kind == 5:
        return [python_value(rng) for _ in range(rng.randrange(3))]
    if kind == 6:
        return {text(rng)[:30]: python_value(rng) for _ in range(rng.randrange(3))}
    if kind == 7:
        return rng.choice((object(), Rude(), int, len, {1, 2}, (1,), 3j, range(3)))
    if kind == 8:
        return rng.choice((10**400, -(10**400), 1e308 * 10))
    if kind == 9 and rng.random() < 0.1:
        deep: Any = {}
        for _ in range(5_000):
            deep = {"in": deep}
        return deep
    return rng.choice(("low", "normal", "soon", 1, 0.5, 3, "x"))
