"""Code as journaled steps. Law of this file: what was executed is not executed by a replay."""

from typing import Any

from autogen_core import CancellationToken
from autogen_core.code_executor import CodeBlock, CodeExecutor, CodeResult

from ..scope import RunScope
from ..steps.effects import Effects, effect_of
from ..steps.step import Step
from .wrapper import TOOL, LazyWrapper, canonical, data_of

EXECUTE_CODE = "execute_code"
"""The name under which the configuration declares code executors."""


class JournaledExecutor(LazyWrapper, CodeExecutor):
    """A code executor whose executions are steps. Its state (Jupyter's) is not rebuilt."""

    component_type = "code_executor"

    def __init__(
        self, wrapped: CodeExecutor, scope: RunScope, path: str, *, effects: Effects
    ) -> None:
        super().__init__(wrapped, scope, path, effects=effects)
        self._effect = effect_of(EXECUTE_CODE, effects, wrapped)

    async def execute_code_blocks(
        self, code_blocks: list[CodeBlock], cancellation_token: CancellationToken
    ) -> CodeResult:
        """Execute blocks as one step."""

        async def act() -> Any:
            await self._lazy_start.start()
            result = await self.wrapped.execute_code_blocks(code_blocks, cancellation_token)
            return {"exit_code": result.exit_code, "output": result.output}

        request = canonical([[block.language, block.code] for block in code_blocks])
        step = Step(TOOL, self._path, EXECUTE_CODE, request, self._effect)
        return CodeResult(**await data_of(self._scope, step, act, by_words=_said))

    async def restart(self) -> None:
        """Restart what is wrapped."""
        await self.wrapped.restart()


def _said(words: str) -> dict[str, Any]:
    return {"exit_code": 0, "output": words}
