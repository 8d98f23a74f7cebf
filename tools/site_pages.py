"""Takes pages of the repository's root into the site, and turns links to them. Hooks of mkdocs."""

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
        found = homes.get((folder / match[1]).resolve())
        if found is None:
            folder_page = homes.get((folder / match[1] / "README.md").resolve())
            found = folder_page
        if found is None:
            return match[0]
        return f"]({os.path.relpath(found, os.path.dirname(page.file.src_uri) or '.')}"

    return re.sub(r"\]\((?!\w+:|#)([^)#\s]+)", turned, markdown)
