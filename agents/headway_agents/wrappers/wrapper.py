"""What the journaled wrappers share: access to what they wrap, and its lazy start.

Law of this file: to AutoGen, a wrapper looks like what it wraps.
"""

from typing import Any

from autogen_core.code_executor import CodeExecutor
from autogen_core.memory import Memory
from autogen_core.tools import Workbench

from ..scope import RunScope
from ..steps.effects import Kinds
from ..steps.lazy_start import behind


class Wrapper:
    """Stands for ``inner`` in one agent of one attempt. Names that it lacks are those of ``inner``.

    ``path`` is the agent's; ``kinds`` declares what may be done again, by name.
    """

    def __init__(
        self, inner: Workbench | CodeExecutor | Memory, scope: RunScope, path: str, kinds: Kinds
    ) -> None:
        self.inner: Any = inner
        self._scope = scope
        self._path = path
        self._kinds = kinds

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # copy and pickle ask before __init__ has run
            raise AttributeError(name)
        return getattr(self.inner, name)


class LazyWrapper(Wrapper):
    """A wrapper of something that is started: it starts at the first call that is not replayed."""

    def __init__(
        self, inner: Workbench | CodeExecutor, scope: RunScope, path: str, kinds: Kinds
    ) -> None:
        super().__init__(inner, scope, path, kinds)
        self._behind = behind(inner, scope)

    async def start(self) -> None:
        """Have it started before the first call that is not replayed."""
        self._behind.want()

    async def stop(self) -> None:
        """Stop it, if Headway started it."""
        await self._behind.end()
