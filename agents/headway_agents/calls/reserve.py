"""What a call reserves, on each model that it may go to.

Law of this file: what is reserved depends on the request and on earlier calls, on nothing else.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from headway_scheduler.model.calls import Call, Priority, Route

from ..requests.codec import Request
from .live_call import LiveCall
from .models import Candidate


async def acquire(
    live: LiveCall,
    candidates: Sequence[Candidate],
    priority: Priority | None,
    output_cap: int | None,
) -> None:
    """Wait until the call may be sent to one of ``candidates``, of which the first was asked for.

    ``priority`` None: the run's. A call that an earlier attempt was cut off in waits for a person,
    if the run is resumed so. Raises what :meth:`LiveCall.acquire` raises.
    """
    scope, slot = live.scope, live.slot
    if slot.was_cut_off and scope.journal.unknown_waits:
        await live.for_person()
    routes = [_route(live, candidate, output_cap) for candidate in candidates]
    first = routes[0]
    call = Call(
        id=slot.id,
        run_id=scope.run_id,
        path=slot.path,
        model=first.model,
        quotas=first.quotas,
        priority=scope.priority if priority is None else priority,
        tokens=first.tokens,
        submitted_at=scope.service.now(),
        request_hash=slot.request_hash,
        occurrence=slot.occurrence,
        kind=slot.kind,
        input_tokens=first.input_tokens,
        output_tokens=first.output_tokens,
        usd=first.usd,
    )
    await live.acquire(call, candidates, tuple(routes) if len(routes) > 1 else ())


def output_cap(request: Request, defaults: Mapping[str, Any]) -> int | None:
    """Return the cap on the answer's tokens, the request's own or else the client's."""
    for arguments in (request.extra or {}, defaults):
        for name in ("max_completion_tokens", "max_tokens"):
            if isinstance(cap := arguments.get(name), int):
                return cap
    return None


def _route(live: LiveCall, candidate: Candidate, output_cap: int | None) -> Route:
    model, scope, characters = candidate.model, live.scope, live.digest.characters
    expected = scope.service.expected(live.slot.agent, model.name, characters, output_cap)
    price = model.price if model.counts_usd or scope.counts_usd else None
    return Route(
        model.name,
        tuple(dict.fromkeys((*model.quotas, *scope.quotas))),
        candidate.provider.reserved_tokens(characters, output_cap, expected),
        expected.input_tokens,
        expected.output_tokens,
        0.0 if price is None else price(expected),
        candidate.rank,
    )
