"""The statements of ``statements.sql`` and the migrations, as they lie in the package."""

import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Final

APPLICATION_ID: Final = 0x48445759
"""``HDWY`` in a file's header says that it is ours."""

_PACKAGE = files(__package__)


def _statements() -> dict[str, str]:
    text = _PACKAGE.joinpath("statements.sql").read_text(encoding="utf-8")
    parts = re.split(r"^-- (\w+): .*\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _migrations() -> dict[int, str]:
    scripts = (item for item in _PACKAGE.joinpath("migrations").iterdir() if item.is_file())
    texts = {int(item.name[:4]): item.read_text(encoding="utf-8") for item in scripts}
    return dict(sorted(texts.items()))


STATEMENTS: Final[Mapping[str, str]] = _statements()
MIGRATIONS: Final[Mapping[int, str]] = _migrations()
"""Script by the version (``PRAGMA user_version``) that it leads to, in order."""

NEWEST: Final = max(MIGRATIONS)
