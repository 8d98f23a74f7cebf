"""``headway init``."""

import os
from argparse import Namespace
from pathlib import Path

from ...config import TEMPLATE, ConfigError
from ..output import say, say_json

NEXT = """\
wrote {file}. Next:
  1. put in the limits that your provider grants you
  2. export OPENAI_API_KEY
  3. headway doctor
  4. headway run module:factory "task"
`headway demo` shows it all without a key."""


def write(args: Namespace) -> int:
    """Write the template, unless there is a file already."""
    file = Path(args.config or os.environ.get("HEADWAY_CONFIG") or "headway.toml")
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(TEMPLATE)
    except FileExistsError:
        raise ConfigError(f"{file}: is there already, and was left as it is") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}") from None
    if args.json:
        say_json({"file": str(file)})
    else:
        say(NEXT.format(file=file))
    return 0
