"""Usage, tier and model are read from the answers of each provider."""

from typing import Any

import genai_prices
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway_scheduler.model.calls import PARTS, Served, Usage
from headway_scheduler.providers.readings import Odd, served

CHAT = {
    "model": "gpt-5.4-2026-03-05",
    "service_tier": "flex",
    "usage": {
        "prompt_tokens": 12_000,
        "completion_tokens": 300,
        "prompt_tokens_details": {"cached_tokens": 11_000, "audio_tokens": 5},
        "completion_tokens_details": {"reasoning_tokens": 200, "audio_tokens": 7},
    },
}
RESPONSES = {
    "model": "gpt-5.4",
    "usage": {
        "input_tokens": 90,
        "input_tokens_details": {"cached_tokens": 50},
        "output_tokens": 9,
        "output_tokens_details": {"reasoning_tokens": 4},
    },
}
ANTHROPIC = {
    "type": "message",
    "model": "claude-sonnet-4-5",
    "usage": {
        "input_tokens": 10,
        "cache_read_input_tokens": 1_000,
        "cache_creation_input_tokens": 200,
        "cache_creation": {"ephemeral_5m_input_tokens": 150, "ephemeral_1h_input_tokens": 50},
        "output_tokens": 30,
        "service_tier": "standard",
    },
}
GEMINI = {
    "modelVersion": "gemini-2.5-pro",
    "usageMetadata": {
        "promptTokenCount": 100,
        "toolUsePromptTokenCount": 10,
        "cachedContentTokenCount": 40,
        "candidatesTokenCount": 20,
        "thoughtsTokenCount": 5,
        "promptTokensDetails": [
            {"modality": "TEXT", "tokenCount": 70},
            {"modality": "IMAGE", "tokenCount": 30},
        ],
    },
}
BEDROCK = {
    "usage": {
        "inputTokens": 10,
        "outputTokens": 3,
        "cacheReadInputTokens": 5,
        "cacheWriteInputTokens": 2,
    }
}
OLLAMA = {"model": "llama3", "done": True, "prompt_eval_count": 26, "eval_count": 298}
DEEPSEEK = {
    "usage": {"prompt_tokens": 10, "completion_tokens": 2, "prompt_cache_hit_tokens": 8},
}
XAI = {
    "usage": {
        "prompt_tokens": 10,
        "completion_tokens": 2,
        "total_tokens": 20,
        "completion_tokens_details": {"reasoning_tokens": 8},
    },
}


@pytest.mark.parametrize(
    ("bodies", "told"),
    [
        (
            [CHAT],
            Served(
                Usage(
                    12_000,
                    300,
                    cache_read_tokens=11_000,
                    output_reasoning_tokens=200,
                    input_audio_tokens=5,
                    output_audio_tokens=7,
                ),
                "flex",
                "gpt-5.4-2026-03-05",
            ),
        ),
        (
            [RESPONSES],
            Served(Usage(90, 9, cache_read_tokens=50, output_reasoning_tokens=4), None, "gpt-5.4"),
        ),
        (
            [
                {"type": "response.created", "response": {"usage": None, "model": "gpt-5.4"}},
                {"type": "response.completed", "response": RESPONSES},
            ],
            Served(Usage(90, 9, cache_read_tokens=50, output_reasoning_tokens=4), None, "gpt-5.4"),
        ),
        (
            [ANTHROPIC],
            Served(
                Usage(
                    1_210,
                    30,
                    cache_read_tokens=1_000,
                    cache_write_tokens=200,
                    cache_write_1h_tokens=50,
                ),
                "standard",
                "claude-sonnet-4-5",
            ),
        ),
        (
            [
                {"type": "message_start", "message": ANTHROPIC},
                {"type": "message_delta", "usage": {"output_tokens": 77}},
            ],
            Served(
                Usage(
                    1_210,
                    77,
                    cache_read_tokens=1_000,
                    cache_write_tokens=200,
                    cache_write_1h_tokens=50,
                ),
                "standard",
                "claude-sonnet-4-5",
            ),
        ),
        (
            [GEMINI],
            Served(
                Usage(
                    110,
                    25,
                    cache_read_tokens=40,
                    output_reasoning_tokens=5,
                    input_image_tokens=30,
                ),
                None,
                "gemini-2.5-pro",
            ),
        ),
        ([BEDROCK], Served(Usage(17, 3, cache_read_tokens=5, cache_write_tokens=2))),
        ([OLLAMA], Served(Usage(26, 298), None, "llama3")),
        ([DEEPSEEK], Served(Usage(10, 2, cache_read_tokens=8))),
        ([XAI], Served(Usage(10, 10, output_reasoning_tokens=8))),
        ([], Served()),
        ([None, [CHAT], "usage", {"usage": "much"}], Served()),
    ],
)
def test_an_answer_tells_its_usage_its_tier_and_its_model(bodies: Any, told: Served) -> None:
    odd: list[Odd] = []
    assert served(bodies, odd) == told
    assert odd == []


@pytest.mark.parametrize(
    ("details", "field"),
    [
        ({"cached_tokens": "many"}, "prompt_tokens_details.cached_tokens"),
        ({"cached_tokens": -1}, "prompt_tokens_details.cached_tokens"),
        ({"cached_tokens": 11}, "usage"),
        ({"cached_tokens": 6, "cache_write_tokens": 6}, "usage"),
    ],
)
def test_parts_that_cannot_be_are_left_out_and_the_totals_kept(details: Any, field: str) -> None:
    odd: list[Odd] = []
    usage = {"prompt_tokens": 10, "completion_tokens": 2, "prompt_tokens_details": details}
    assert served([{"usage": usage}], odd).usage == Usage(10, 2, has_odd_parts=True)
    assert odd == [Odd(field)]


def test_sums_beyond_what_is_believed_are_unknown() -> None:
    usage = {"input_tokens": 10**9, "cache_read_input_tokens": 1, "output_tokens": 1}
    assert served([{"usage": usage}], []).usage is None


counts = st.integers(0, 10**6)


@st.composite
def chats(draw: st.DrawFn) -> dict[str, Any]:
    given_, made = draw(counts), draw(counts)
    read = draw(st.integers(0, given_))
    details = {"cached_tokens": read, "cache_write_tokens": draw(st.integers(0, given_ - read))}
    outer = {"reasoning_tokens": draw(st.integers(0, made))}
    return {
        "prompt_tokens": given_,
        "completion_tokens": made,
        "prompt_tokens_details": details,
        "completion_tokens_details": outer,
    }


@st.composite
def responses(draw: st.DrawFn) -> dict[str, Any]:
    chat = draw(chats())
    return {
        "input_tokens": chat["prompt_tokens"],
        "output_tokens": chat["completion_tokens"],
        "input_tokens_details": chat["prompt_tokens_details"],
        "output_tokens_details": chat["completion_tokens_details"],
    }


@st.composite
def messages(draw: st.DrawFn) -> dict[str, Any]:
    written = draw(counts)
    hour = draw(st.integers(0, written))
    return {
        "input_tokens": draw(counts),
        "output_tokens": draw(counts),
        "cache_read_input_tokens": draw(counts),
        "cache_creation_input_tokens": written,
        "cache_creation": {
            "ephemeral_5m_input_tokens": written - hour,
            "ephemeral_1h_input_tokens": hour,
        },
    }


gemini = st.builds(
    lambda given_, cached, made, thought: {
        "promptTokenCount": given_ + cached,
        "cachedContentTokenCount": cached,
        "candidatesTokenCount": made,
        "thoughtsTokenCount": thought,
    },
    *(counts, counts, counts, counts),
)


@given(
    st.one_of(
        st.tuples(st.just("openai"), st.just("chat"), st.just("usage"), chats()),
        st.tuples(st.just("azure"), st.just("chat"), st.just("usage"), chats()),
        st.tuples(st.just("openai"), st.just("responses"), st.just("usage"), responses()),
        st.tuples(st.just("anthropic"), st.just("default"), st.just("usage"), messages()),
        st.tuples(st.just("google"), st.just("default"), st.just("usageMetadata"), gemini),
    )
)
def test_it_is_read_as_genai_prices_reads_it(
    asked: tuple[str, str, str, dict[str, Any]],
) -> None:
    provider, flavour, place, told = asked
    theirs = genai_prices.extract_usage(
        {place: told}, provider_id=provider, api_flavor=flavour
    ).usage
    ours = served([{place: told}], []).usage or Usage(0, 0)
    for name in ("input_tokens", "output_tokens", *PARTS[:4]):
        assert getattr(ours, name) == (theirs.reported_value(name) or 0), name
