"""Bars, sparklines and columns, and what keys a terminal sends."""

import pytest

from headway.cli.top.gauges import amount
from headway.cli.top.keys import pressed
from headway.cli.top.parts import Cell, bar, columns, cut, plain, sparkline
from headway.cli.top.picture import shared


@pytest.mark.parametrize(
    ("share", "drawn"),
    [
        (0, "░░░░"),
        (1, "████"),
        (0.5, "██░░"),
        (0.53125, "██▏░"),
        (0.99, "████"),
        (7, "████"),
        (-1, "░░░░"),
    ],
)
def test_a_bar_is_drawn_to_an_eighth_of_a_character(share: float, drawn: str) -> None:
    assert bar(share, 4) == drawn


def test_a_sparkline_has_the_last_values_and_shows_whatever_is_not_0() -> None:
    assert sparkline([9, 9, 0, 1, 50, 100], 4) == " ▁▄█"
    assert sparkline([0, 0], 4) == "  "
    assert sparkline([], 4) == sparkline([1], 0) == ""


ROWS = [
    [Cell("ID"), Cell("NAME"), Cell("N"), Cell("WHY")],
    [Cell("r-1"), Cell("a long name"), Cell("10"), Cell("because of that")],
    [Cell("r-22"), Cell("名前"), Cell("9"), Cell("\x1b[31mred\nline")],
]


def test_columns_are_aligned_by_what_characters_take_on_the_screen() -> None:
    assert plain(columns(ROWS, None, right=(2,))) == (
        "ID    NAME          N  WHY\n"
        "r-1   a long name  10  because of that\n"
        "r-22  名前          9  \\x1b[31mred\\nline"
    )


def test_the_column_that_may_be_cut_is_cut_before_the_last_one_and_ids_never() -> None:
    assert plain(columns(ROWS, 34, right=(2,), shrinks=(1,))) == (
        "ID   NAME      N WHY\n"
        "r-1  a long…  10 because of that\n"
        "r-22 名前      9 \\x1b[31mred\\nline"
    )
    narrow = plain(columns(ROWS, 20, right=(2,), shrinks=(1,))).splitlines()
    assert [line.split()[0] for line in narrow] == ["ID", "r-1", "r-22"]


def test_what_is_cut_says_so() -> None:
    assert [cut("abcdef", width) for width in (6, 5, 1)] == ["abcdef", "abcd…", "…"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (8.333, "8.33"), (388, "388"), (9_000, "9,000"), (41_234, "41.2k"), (2e6, "2M")],
)
def test_amounts_are_short(value: float, text: str) -> None:
    assert amount(value) == text


def test_room_is_shared_by_turn_and_the_last_sections_go_first() -> None:
    wanted = [(2, 10, 1), (1, 3, 0), (1, 9, 2)]
    assert shared(wanted, 100) == [10, 3, 9]
    assert shared(wanted, 3 + 4) == [2, 1, 1]
    assert shared(wanted, 3 + 5) == [2, 2, 1]
    assert shared(wanted, 3 + 6) == [3, 2, 1]
    assert shared(wanted, 3 + 3) == [1, 1, 1]
    assert shared(wanted, 4) == [1, 1]
    assert shared(wanted, 1) == shared([], 9) == []


@pytest.mark.parametrize(
    ("sent", "keys"),
    [
        (b"q", ["q"]),
        (b"\x1b[A\x1bOBj", ["up", "down", "j"]),
        (b"\x1b", ["escape"]),
        (b"\r", ["enter"]),
        (b"\x7f", ["backspace"]),
        (b"\x1b[5~\x1b[6~", ["page up", "page down"]),
        (b"\x1b[15~\x1b[1;5Cx", ["x"]),
        ("é🚂".encode(), ["é", "🚂"]),
        (b"\xff\x00a", ["\ufffd", "a"]),
        (b"\x1b[", []),
    ],
)
def test_keys_are_read_and_unknown_ones_are_none(sent: bytes, keys: list[str]) -> None:
    assert pressed(sent) == keys
