"""``headway config``."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from ...config import load
from ...config.schema import schema
from ..output import say, say_json, table


def show(args: Namespace) -> int:
    """List every setting, its value and its source. No value is a secret."""
    config = load(args.config)
    rows = config.rows()
    if args.json:
        values = (_plain(setting.value) for setting in config.settings.values())
        say_json(
            [
                {"key": key, "value": value, "source": source}
                for (key, _, source), value in zip(rows, values, strict=True)
            ]
        )
    else:
        say(table(("SETTING", "VALUE", "FROM"), rows))
    return 0


def schema_of_file(_: Namespace) -> int:
    """Print what an editor checks and completes headway.toml by."""
    say_json(schema())
    return 0


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
