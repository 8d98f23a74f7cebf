"""Requests and answers of the SDK as data."""

import json
from typing import Any

import pytest

from headway_agents.openai_sdk.payloads import EncodedRequest, Events, read_request


def asked(path: str = "chat/completions", **body: Any) -> EncodedRequest:
    return read_request(path, "application/json", json.dumps(body).encode())


def test_the_same_request_has_the_same_hash_however_it_is_written() -> None:
    one = read_request("embeddings", "application/json", b'{"model":"e","input":"a"}')
    two = read_request("embeddings", "application/json", b'{ "input": "a", "model": "e" }')
    assert one == two
    assert one.digest.request_hash != asked("moderations", model="e", input="a").digest.request_hash
    assert one.digest.request_hash != asked("embeddings", model="e", input="b").digest.request_hash


def test_a_file_has_the_same_hash_whatever_boundary_was_drawn() -> None:
    def upload(boundary: str, content: str) -> str:
        body = f"--{boundary}\r\n\r\n{content}\r\n--{boundary}--\r\n"
        kind = f"multipart/form-data; boundary={boundary}"
        return read_request("files", kind, body.encode()).digest.request_hash

    assert upload("a1", "text") == upload("b2", "text") != upload("a1", "other")


@pytest.mark.parametrize(
    ("path", "body", "cap"),
    [
        ("chat/completions", {}, None),
        ("chat/completions", {"max_tokens": 5}, 5),
        ("chat/completions", {"max_tokens": 5, "max_completion_tokens": 7}, 7),
        ("responses", {"max_output_tokens": 9}, 9),
        ("responses", {"max_output_tokens": None}, None),
        ("embeddings", {"input": "a"}, 0),
    ],
)
def test_the_cap_on_the_output(path: str, body: dict[str, Any], cap: int | None) -> None:
    assert asked(path, **body).output_cap == cap


def test_an_image_has_a_flat_rate() -> None:
    def part(pixels: int) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * pixels}}

    small, large = (asked(messages=[{"content": [part(size)]}]) for size in (10, 100_000))
    assert small.digest.characters == large.digest.characters > 3000


def test_a_conversation_that_grows_shares_its_chunks() -> None:
    told = [{"role": "user", "content": f"line {number} " + "x" * 500} for number in range(20)]
    first, second = asked(messages=told[:16]), asked(messages=told)
    known = {node.hash for node, _ in first.digest.chain}
    assert len(second.digest.missing(known).nodes) < len(second.digest.chain) / 2


CHAT = b'data: {"usage": {"prompt_tokens": 3, "completion_tokens": 4}}\r\n\r\ndata: [DONE]\r\n\r\n'
RESPONSES = (
    b'event: response.created\ndata: {"type": "response.created", "response": {"error": null}}\n\n'
    b'event: response.completed\ndata: {"type": "response.completed", "response": '
    b'{"usage": {"input_tokens": 3, "output_tokens": 4}}}\n\n'
)


@pytest.mark.parametrize("stream", [CHAT, RESPONSES])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_stream_tells_its_end_however_it_is_cut_into_chunks(stream: bytes, size: int) -> None:
    events, stream = Events(), stream.rstrip()
    for start in range(0, len(stream), size):
        assert not events.is_ended
        events.feed(stream[start : start + size])
    events.feed(b"")  # the last line may have no end
    assert events.is_ended
    assert events.error is None


@pytest.mark.parametrize(
    ("event", "error"),
    [
        ({"error": {"code": "rate_limit_exceeded"}}, {"code": "rate_limit_exceeded"}),
        ({"type": "error", "message": "no"}, {"type": "error", "message": "no"}),
        ({"error": "overloaded"}, {"message": "overloaded"}),
        ({"error": None}, None),
        (["error"], None),
    ],
)
def test_an_error_in_a_stream(event: Any, error: Any) -> None:
    events = Events()
    events.feed(f"data: {json.dumps(event)}\n\n".encode())
    assert events.error == error
    assert not events.is_ended


def test_what_is_no_event_is_passed_over() -> None:
    events = Events()
    events.feed(b": a comment\nevent: x\nretry: 3\ndata:\n\n")
    assert (events.is_ended, events.error) == (False, None)


def test_an_event_that_is_no_json_is_an_error() -> None:
    with pytest.raises(json.JSONDecodeError):
        Events().feed(b'data: {"choices": [\n\n')
