"""What providers do with batches, told to the quotas of the lanes. Law: it asks no provider."""

import logging
from collections.abc import Mapping

from headway_scheduler.model.batch import Batch
from headway_scheduler.model.calls import ServiceLane
from headway_scheduler.model.formulas import LONGEST_STATED_SECONDS
from headway_scheduler.model.quotas import Observation, ProviderEvent
from headway_scheduler.protocol.messages import Observe
from headway_scheduler.runtime.local import LocalScheduler

from ..config import Config

LONGEST_WORDS = 500
"""How many characters of a refusal are kept."""
_STOPPED = "quota %r is stopped, its batches wait: %s: mend it, then `headway limits resume %s`"
_REFUSED = (
    "the provider takes no batches of model %r: %s: its calls go the standard way until "
    "`headway limits resume %s`"
)
_log = logging.getLogger("headway")


class LaneQuotas:
    """The quotas of the batch lanes, by the models of the configuration."""

    def __init__(self, scheduler: LocalScheduler, config: Config) -> None:
        self._scheduler = scheduler
        self._config = config

    def is_stopped(self, model: str) -> bool:
        """Whether no call goes by batch until an operator resumes the lane."""
        return self._of(model) in self._scheduler.provider_health().locked_out

    async def stop(self, model: str, error: Exception) -> None:
        """Stop a lane: the provider refuses the key or the account. Raises StoreError."""
        from headway_agents.calls.errors import described

        quota, words = self._of(model), described(error)[:LONGEST_WORDS]
        _log.warning(_STOPPED, quota, words, quota)
        locked_out = Observation(event=ProviderEvent.LOCKED_OUT, error=words)
        await self._scheduler.write(Batch(), Observe("", {quota: locked_out}))

    async def note_taken(self, model: str) -> None:
        """Have calls go by a lane again that was stopped: a batch is taken. Raises StoreError."""
        quota = self._of(model)
        if quota in self._scheduler.provider_health().probing:
            answered = Observation(event=ProviderEvent.ANSWERED)
            await self._scheduler.write(Batch(), Observe("", {quota: answered}))

    def refused(
        self, model: str, words: str, *, is_full: bool = False
    ) -> Mapping[str, Observation]:
        """Return what a refusal of a whole batch says of its lane: it pauses, or stops."""
        from headway_agents.secrets import scrubbed

        quota = self._of(model)
        if is_full:
            until = self._scheduler.now() + LONGEST_STATED_SECONDS
            return {quota: Observation(pause_until=until)}
        words = scrubbed(words)[:LONGEST_WORDS]
        _log.warning(_REFUSED, model, words, quota)
        return {quota: Observation(event=ProviderEvent.LOCKED_OUT, error=words)}

    def _of(self, model: str) -> str:
        return self._config.lane_quota(model, ServiceLane.BATCH)
