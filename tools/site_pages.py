"""Hooks of mkdocs: takes pages of the repository's root into the site, and turns links to them.

It also takes roles of docstrings (``:meth:``) out of the reference, which leave no link there.
"""

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PAGES = ("ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages of the root beside those of docs/."""
    for name in PAGES:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, *, page: Any, files: Files, **_: Any) -> str:
    """Turn each link that leads from one of these folders to the other into one of the site."""
    homes = {Path(str(file.abs_src_path)).resolve(): file.src_uri for file in files}
    folder = Path(str(page.file.abs_src_path)).parent

    def turned(match: re.Match[str]) -> str:
        target = folder / match[1]
        target = target / "README.md" if target.is_dir() else target
        found = homes.get(target.resolve())
        if found is None:
            return match[0]
        return f"]({os.path.relpath(found, os.path.dirname(page.file.src_uri) or '.')}"

    return re.sub(r"\]\((?!\w+:|#)([^)#\s]+)", turned, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Leave the name of what a docstring refers to."""
    return re.sub(r":\w+:(?=<code>)", "", html)
