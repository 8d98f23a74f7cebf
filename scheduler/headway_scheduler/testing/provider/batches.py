"""Plays ``/v1/files`` and ``/v1/batches`` of OpenAI's protocol. No I/O; times are told.

A batch is answered as a whole once its time is over, when it is next looked at; its answers are
entered in the ledger then, with the tier ``batch``. A request of it that gets a fault with a status
gets its error line, one that hangs expires: it gets a line without a response, and the batch ends
``expired``. Batches draw on no limits.
"""

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from enum import StrEnum
from typing import Any

from .refusals import bad_request

BATCH_TIER = "batch"
"""The tier of its requests in the ledger."""


class BatchFault(StrEnum):
    """What goes wrong with the files and batches of a provider."""

    PAGE_FOR_FILE = "page_for_file"  # what takes files answers 200 with a page
    PAGE_FOR_BATCH = "page_for_batch"  # what begins batches does, and begins none
    PAGE_FOR_LOOK = "page_for_look"  # what tells how a batch stands does
    ODD_ERRORS = "odd_errors"  # batches fail, and say why in no form that anybody knows
    GONE = "gone"  # files of answers are gone when they are asked for
    NO_LINES = "no_lines"  # batches are completed and paid, and no line can be read


PAGE = b"<html>Welcome</html>"

Outcome = tuple[int, dict[str, Any]] | None
"""The status and the body of a response; None for none."""
AnswerLine = Callable[[bytes, str], Outcome]
"""Answers a request, of which it gets the body and the ``custom_id``."""


@dataclass
class _Batch:
    """A batch as the provider has it."""

    id: str
    file_id: str
    endpoint: str
    metadata: dict[str, str]
    created_at: float
    due_at: float
    status: str = "in_progress"
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: list[str] = field(default_factory=list[str])


class Batches:
    """All files and batches. ``seconds``: how long a batch takes."""

    def __init__(self, seconds: float, answer: AnswerLine) -> None:
        self._seconds = seconds
        self._answer = answer
        self._files: dict[str, tuple[str, bytes]] = {}
        self._batches: dict[str, _Batch] = {}

    def upload(self, content_type: str, raw: bytes, now: float) -> dict[str, Any]:
        """Keep the file of a multipart form. Raises ValueError without one."""
        form = message_from_bytes(f"Content-Type: {content_type}\r\n\r\n".encode() + raw)
        parts = form.get_payload()
        for part in parts if isinstance(parts, list) else []:
            assert isinstance(part, Message)
            if name := part.get_filename():
                data = part.get_payload(decode=True)
                assert isinstance(data, bytes)
                return self._file(self._keep(name, data), now)
        raise ValueError("'file' is required")

    def content(self, file_id: str) -> bytes | None:
        """Return the content of a file; None if there is none of this name."""
        return None if file_id not in self._files else self._files[file_id][1]

    def create(self, body: dict[str, Any], now: float) -> dict[str, Any]:
        """Begin a batch. Raises ValueError for a file that cannot be one."""
        file_id, endpoint = body.get("input_file_id"), body.get("endpoint")
        if file_id not in self._files:
            raise ValueError(f"no such file: {file_id}")
        for line in self._files[file_id][1].splitlines():
            asked = json.loads(line)
            if asked["url"] != endpoint or asked["method"] != "POST":
                raise ValueError("a line is for another endpoint than the batch")
        batch_id = f"batch_{secrets.token_hex(8)}"
        metadata = body.get("metadata") or {}
        batch = _Batch(batch_id, file_id, str(endpoint), metadata, now, now + self._seconds)
        self._batches[batch_id] = batch
        return self.shown(batch)

    def find(self, batch_id: str, now: float) -> dict[str, Any] | None:
        """Return a batch as it stands; None if there is none of this name."""
        batch = self._batches.get(batch_id)
        if batch is None:
            return None
        if batch.status == "in_progress" and now >= batch.due_at:
            self._finish(batch)
        return self.shown(batch)

    def cancel(self, batch_id: str, now: float) -> dict[str, Any] | None:
        """End a batch before its time; None if there is none of this name."""
        found = self.find(batch_id, now)
        batch = self._batches.get(batch_id)
        if batch is not None and batch.status == "in_progress":
            batch.status = "cancelled"
            return self.shown(batch)
        return found

    def listed(self) -> list[dict[str, Any]]:
        """Return every batch as it was last found, the newest first. To list pays for none."""
        return [self.shown(batch) for batch in reversed(self._batches.values())]

    def shown(self, batch: _Batch) -> dict[str, Any]:
        """Return the object of a batch."""
        return {
            "id": batch.id,
            "object": "batch",
            "endpoint": batch.endpoint,
            "input_file_id": batch.file_id,
            "completion_window": "24h",
            "status": batch.status,
            "created_at": int(batch.created_at),
            "output_file_id": batch.output_file_id,
            "error_file_id": batch.error_file_id,
            "metadata": batch.metadata,
        }

    def _finish(self, batch: _Batch) -> None:
        answers, errors, has_expired = list[str](), list[str](), False
        for line in self._files[batch.file_id][1].splitlines():
            asked = json.loads(line)
            name = asked["custom_id"]
            outcome = self._answer(json.dumps(asked["body"]).encode(), name)
            told: dict[str, Any] = {"id": f"batch_req_{secrets.token_hex(4)}", "custom_id": name}
            if outcome is None:
                has_expired = True
                told |= {"response": None, "error": {"code": "batch_expired", "message": "late"}}
            else:
                status, body = outcome
                told |= {"response": {"status_code": status, "body": body}, "error": None}
            is_answer = outcome is not None and outcome[0] == 200
            (answers if is_answer else errors).append(json.dumps(told))
        answers.reverse()  # in no order that anybody may rely on
        batch.status = "expired" if has_expired else "completed"
        if answers:
            batch.output_file_id = self._keep("output.jsonl", "\n".join(answers).encode())
        if errors:
            batch.error_file_id = self._keep("errors.jsonl", "\n".join(errors).encode())

    def _keep(self, name: str, data: bytes) -> str:
        file_id = f"file-{secrets.token_hex(8)}"
        self._files[file_id] = name, data
        return file_id

    def _file(self, file_id: str, now: float) -> dict[str, Any]:
        name, data = self._files[file_id]
        return {
            "id": file_id,
            "object": "file",
            "bytes": len(data),
            "created_at": int(now),
            "filename": name,
            "purpose": "batch",
            "status": "processed",
        }


def not_found(what: str) -> dict[str, Any]:
    """Return the body of a 404."""
    return bad_request(f"No such {what}.").body()
