"""A configuration for tests that open Headway on a database of their own."""

from pathlib import Path

from headway.config import Config, load

KEY = "TEST_KEY"
"""The environment variable of the key: tests set it."""


def written(folder: Path, url: str, **limits: str) -> Config:
    """Write ``headway.toml``: for each name a model at ``url``, with a quota of that limit."""
    tables = ['[database]\npath = "headway.db"\n']
    for name, limit in limits.items():
        tables.append(f"[quotas.{name}]\n{limit}\n[models.{name}]\nquotas = [{name!r}]\n")
        tables.append(f'base_url = "{url}"\napi_key_env = "{KEY}"\n')
    (folder / "headway.toml").write_text("".join(tables))
    return load(folder / "headway.toml")
