"""``/v1/embeddings``, asked by OpenAI's own client."""

from typing import Any

import openai
import pytest

from headway_scheduler.testing.provider import Limits, Settings, simulated_provider

pytestmark = pytest.mark.anyio


def client(base_url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key="not-a-key", base_url=base_url, max_retries=0)


async def embedded(asked: Any, **more: Any) -> tuple[list[list[float]], int]:
    async with simulated_provider() as provider, client(provider.base_url) as sdk:
        answer = await sdk.embeddings.create(model="e", input=asked, **more)
        (entry,) = provider.ledger.paid
        assert entry.prompt_tokens == entry.charged_tokens == answer.usage.prompt_tokens
        assert entry.completion_tokens == 0
        return [each.embedding for each in answer.data], answer.usage.total_tokens


async def test_texts_that_share_words_lie_close_together() -> None:
    texts = ["the tide comes in", "in comes the tide", "the tide table", "pay your rent"]
    vectors, tokens = await embedded(texts)
    first, same, near, far = (
        sum(a * b for a, b in zip(vectors[0], other, strict=True)) for other in vectors
    )
    assert first == pytest.approx(same) == pytest.approx(1)
    assert near > far
    assert tokens == sum(-(-len(text) // 4) for text in texts)


async def test_plain_numbers_and_packed_ones_are_the_same() -> None:
    packed, _ = await embedded("tide")  # the client asks for base64
    plain, _ = await embedded("tide", encoding_format="float")
    assert packed[0] == pytest.approx(plain[0])
    assert len((await embedded("tide", dimensions=8))[0][0]) == 8


async def test_tokens_are_counted_one_by_one() -> None:
    vectors, tokens = await embedded([[1, 2, 3], [4]])
    assert (len(vectors), tokens) == (2, 4)


async def test_a_model_has_limits_of_its_own() -> None:
    limits = {"e": Limits(requests_per_minute=1)}
    async with simulated_provider(Settings(limits=limits)) as provider:
        async with client(provider.base_url) as sdk:
            await sdk.embeddings.create(model="e", input="a")
            with pytest.raises(openai.RateLimitError):
                await sdk.embeddings.create(model="e", input="b")
            await sdk.embeddings.create(model="f", input="b")
        assert [(each.model, each.paid) for each in provider.ledger.entries] == [
            ("e", True),
            ("e", False),
            ("f", True),
        ]


@pytest.mark.parametrize("given", [[], [1, "a"], [[]], 3, [None]])
async def test_what_cannot_be_embedded_is_refused(given: Any) -> None:
    async with simulated_provider() as provider, client(provider.base_url) as sdk:
        with pytest.raises(openai.BadRequestError, match="input"):
            await sdk.embeddings.create(model="e", input=given)
        assert [entry.why for entry in provider.ledger.entries] == ["bad_request"]
