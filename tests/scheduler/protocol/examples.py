"""An example of each type of the protocol; ``docs/protocol.md`` has their texts."""

from msgspec import Struct

from headway_scheduler.model import changes
from headway_scheduler.model.batch import Lesson
from headway_scheduler.model.batches import BatchedRequest
from headway_scheduler.model.calls import Call, CallRecord, Outcome, Priority, Route, Usage
from headway_scheduler.model.changes import HoldState
from headway_scheduler.model.prompts import ChainNode, Chunk, Prompt
from headway_scheduler.model.quotas import Observation, ProviderEvent, RateLimitHeader, Resource
from headway_scheduler.model.runs import Run, Worker
from headway_scheduler.model.schedules import Schedule
from headway_scheduler.model.states import CallState, RunState
from headway_scheduler.protocol.commands import (
    CancelRun,
    ClaimRun,
    ExecuteRun,
    FireSchedule,
    HoldSchedule,
    PauseRun,
    QueueRun,
    RegisterWorker,
    ResumeQuota,
    RetireWorker,
    SetHold,
    SetLimits,
    SetPriority,
    SetSchedules,
    SetWeight,
)
from headway_scheduler.protocol.envelopes import (
    CallRefusal,
    Done,
    Grant,
    Handled,
    MessageBatch,
    Notification,
    Refusal,
    Refused,
)
from headway_scheduler.protocol.messages import (
    Amend,
    ApplyChange,
    AwaitRuns,
    ChargeRequest,
    Decide,
    DropWorker,
    EnterBatch,
    ForgetRuns,
    Learn,
    LeaveBatch,
    MarkSent,
    Observe,
    ProbeStopped,
    Reestimate,
    Resubmit,
    SaveRun,
    SetCallPriority,
    Settle,
    Submit,
)

NOW = 1772366400.25
HASH = "00112233445566778899aabbccddeeff"
CALL = Call("r-7f3k.4", "r-7f3k", "writer", "gpt", ("org",), Priority.NORMAL, 900, NOW, HASH)
PAST = Call(
    "r-7f3k.past.0",
    *("r-7f3k", "writer", "api.openai.com", ("org",), Priority.NORMAL, 0, NOW),
    kind="bypass",
)
RECORD = CallRecord(CALL, 17, CallState.UNKNOWN, attempts=1, lost_attempts=1)
PROMPT = Prompt(
    (Chunk(b"sixteen bytes...", "You write."),),
    (ChainNode(bytes.fromhex(HASH), None, b"sixteen bytes..."),),
)
TOLD = Observation(
    event=ProviderEvent.ANSWERED,
    headers={Resource.REQUESTS: RateLimitHeader(500.0, 499.0, 0.12)},
)
RUN = Run("r-7f3k", "report", "Write a report.", Priority.NORMAL, RunState.QUEUED, NOW)
WORKER = Worker("w-0a1b2c3d4e5f", 4711, NOW, "laptop", 2, workflows=("report",))
EXCEEDED = Refused(
    "BudgetExceeded",
    "run r-7f3k may spend $0.5000, and with its next call (model 'gpt', up to 900 tokens) it would "
    "come to $0.5100",
)
REFUSED = Refused("UnknownQuota", "no quota 'orgs'; configured: org")

EXAMPLES: tuple[Struct, ...] = (
    Submit(CALL, PROMPT),
    Resubmit(RECORD),
    MarkSent(CALL.id, NOW),
    EnterBatch(BatchedRequest(CALL.id, "gpt", "/v1/chat/completions", '{"model": "gpt"}', NOW)),
    LeaveBatch(CALL.id, "batch b-0a1b2c3d4e5f has ended without an answer to it"),
    Observe(CALL.id, {"org": TOLD}),
    Settle(CALL.id, Outcome(CallState.DONE, Usage(812, 96), '{"content": "…"}', arrival=4)),
    Decide(RECORD, Outcome(CallState.DONE, answer='"yes"', arrival=5)),
    SetCallPriority(CALL.id, Priority.HIGH),
    Reestimate("r-7f3k.4", (Route("gpt", ("org",), 700, usd=0.004),)),
    AwaitRuns("r-7f3k", frozenset({"r-22aa"})),
    SaveRun(RUN),
    ApplyChange(changes.weight("report", 2.0, NOW)),
    DropWorker(WORKER.id),
    ProbeStopped(),
    Learn((Lesson("tokens", '["gpt", "writer"]', '{"ratio": 0.26, "output": 96.0}'),)),
    ChargeRequest(("org",), PAST),
    Amend((RECORD,)),
    ForgetRuns(("r-7f3k",)),
    QueueRun(RUN),
    CancelRun("r-7f3k"),
    PauseRun("r-7f3k"),
    SetPriority("r-7f3k", Priority.HIGH),
    SetHold("class:background", HoldState.DRAINED),
    SetLimits("org", {"requests_per_minute": 60}),
    SetWeight("report", 2.0),
    ResumeQuota("org"),
    SetSchedules((Schedule("nightly", "0 3 * * *", "Europe/Berlin", RUN),), ("weekly",)),
    HoldSchedule("nightly", is_paused=True),
    FireSchedule("nightly", "r-22aa"),
    RegisterWorker(WORKER),
    ClaimRun(RUN, WORKER.id),
    RetireWorker(WORKER.id),
    ExecuteRun(RUN),
    MessageBatch(WORKER.id, (MarkSent(CALL.id, NOW),), seen=41),
    Done(),
    REFUSED,
    Grant(CALL.id, NOW, 1, Route("gpt", ("org",), 900)),
    Refusal(0, REFUSED),
    CallRefusal("r-7f3k.9", EXCEEDED),
    Handled(12, (Refusal(0, REFUSED),)),
    Notification((Grant(CALL.id, NOW, 1, Route("gpt", ("org",), 900)),), (Handled(12),)),
)
