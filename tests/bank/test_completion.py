"""Completions with the counts that a server tells."""

import pytest

from tests.banks import sequential, served
from tests.helpers import refused
from tests.speaking import LENGTH, TEXTS, speaking_bank

pytest.importorskip("keras_hub")

NAMES = ["a", None, "b", "a"]


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    with speaking_bank(tmp_path_factory.mktemp("x")) as bank:
        yield bank


def sizes(bank, texts):
    tokenizer = bank.base.preprocessor.tokenizer
    return [len(tokenizer(text)) + 1 for text in texts]  # the start token


def test_what_is_added_and_what_it_took(bank):
    whole = bank.generate(TEXTS, NAMES)
    assert len(set(whole)) == 4
    got = bank.complete(TEXTS, NAMES, max_tokens=100)
    assert [t + c.text for t, c in zip(TEXTS, got, strict=True)] == whole
    assert [c.prompt_tokens for c in got] == sizes(bank, TEXTS)
    for completion in got:
        full = completion.prompt_tokens + completion.tokens == LENGTH
        assert completion.finish == ("length" if full else "stop")


def test_each_row_has_a_length_of_its_own(bank):
    whole = bank.complete(TEXTS, NAMES, max_tokens=100)
    assert min(c.tokens for c in whole) > 6
    got = bank.complete(TEXTS, NAMES, max_tokens=[1, 6, 3, 100])
    assert [c.tokens for c in got] == [1, 6, 3, whole[3].tokens]
    assert [c.finish for c in got] == ["length"] * 3 + [whole[3].finish]
    for some, all_of_it in zip(got, whole, strict=True):
        assert all_of_it.text.startswith(some.text)
    short = bank.complete(TEXTS, NAMES, max_tokens=100, max_length=20)
    assert [c.prompt_tokens + c.tokens for c in short] == [20] * 4


def test_a_token_that_ends_is_counted_and_not_shown(bank, monkeypatch):
    tokenizer = bank.base.preprocessor.tokenizer
    [before] = bank.complete(["x"], max_tokens=6)
    assert before.finish == "length"
    fifth = tokenizer("x" + before.text)[5]
    monkeypatch.setattr(tokenizer, "end_token_id", int(fifth))
    [completion] = bank.complete(["x"], max_tokens=10)
    assert completion.finish == "stop" and completion.tokens <= 5
    assert before.text.startswith(completion.text)


@pytest.mark.parametrize("tokens", [3, 50])
def test_a_stream_comes_to_the_same(bank, tokens):
    more = [2, 9, 5, 100]
    whole = bank.complete(TEXTS, NAMES, more)
    steps = list(bank.stream_completions(TEXTS, NAMES, more, tokens=tokens))
    assert (len(steps) == 1) == (tokens == 50)
    for row, completion in enumerate(whole):
        said = "".join(step[row].text for step in steps)
        last = steps[-1][row]
        assert said == completion.text
        assert (last.tokens, last.finish) == (
            completion.tokens,
            completion.finish,
        )
        if tokens == 3 and completion.tokens > 3:
            assert steps[0][row].finish is None


def test_what_cannot_be_completed_is_refused(bank):
    refused(lambda: bank.complete(["x" * 90]), "over 24 tokens", "no room")
    refused(lambda: bank.complete(["x"], max_tokens=0), "max_tokens")
    refused(lambda: bank.complete(["x", "y"], max_tokens=[1]), "2 texts")
    refused(lambda: bank.complete(["x"], "nobody"), "nobody")
    refused(lambda: bank.complete(["abcd"], max_length=4), "no room in 4")
    for length in (0, -5):
        refused(
            lambda length=length: bank.complete(["x"], max_length=length),
            f"max_length={length}",
        )
    refused(
        lambda: bank.complete("hello", max_tokens=0, max_length=0),
        "list of texts",
        "max_tokens",
        "max_length",
    )
    refused(lambda: bank.stream_completions("hello"), "list of texts")
    with served(sequential()) as plain:
        refused(lambda: plain.complete(["x"]), "generate_step")
