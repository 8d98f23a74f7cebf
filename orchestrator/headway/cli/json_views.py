"""Runs and calls as JSON objects. Law of this file: what scripts read keeps its names."""

import json
from collections.abc import Iterable
from typing import Any

from headway_scheduler.model.calls import CallRecord
from headway_scheduler.model.history import Try
from headway_scheduler.model.runs import Run

from .text import waited_seconds


def run_facts(run: Run) -> dict[str, Any]:
    """All of a run but its component and its result, which can be long."""
    return {
        "id": run.id,
        "workflow": run.workflow,
        "task": run.task,
        "priority": run.priority.label,
        "state": run.state.value,
        "key": run.key,
        "created_at": run.created_at,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "error": run.error,
        "parameters": None if run.parameters is None else json.loads(run.parameters),
        "version": run.version,
        "history": [each.text for each in run.history],
        "parent": run.parent,
        "deadline": run.deadline,
        "budget_usd": run.budget_usd,
        "waits_for": run.waits_for,
        "attempts": run.attempts,
        "resumed_at": run.resumed_at,
        "worker": run.worker,
        "lives_lost": run.lives_lost,
        "quarantined": run.is_quarantined,
        "lane": run.lane.value,
    }


def call_facts(record: CallRecord, now: float) -> dict[str, Any]:
    """All of a call but its answer. ``tokens`` is what was reserved."""
    call, usage = record.call, record.usage
    return {
        "id": call.id,
        "run_id": call.run_id,
        "kind": call.kind,
        "agent": call.path,
        "model": call.model,
        "quotas": list(call.quotas),
        "priority": call.priority.label,
        "state": record.state.value,
        "attempts": record.attempts,
        "tokens": call.tokens,
        "input_tokens": usage.input_tokens if usage else None,
        "output_tokens": usage.output_tokens if usage else None,
        "submitted_at": call.submitted_at,
        "admitted_at": record.admitted_at,
        "finished_at": record.finished_at,
        "waited_seconds": waited_seconds(record, now),
        "error": record.error,
        "arrival": record.arrival,
        "losses": record.lost_attempts,
        "lane": call.lane.value,
    }


def tries_facts(tries: Iterable[Try], call_id: str) -> list[dict[str, Any]]:
    """Return the attempts at a call that brought no answer, the last one first."""
    return [
        {
            "quota": each.quota,
            "admitted_at": each.admitted_at,
            "ended_at": each.ended_at,
            "because": each.news,
            "pause_until": each.pause_until,
            "error": each.error,
        }
        for each in tries
        if each.call_id == call_id
    ]
