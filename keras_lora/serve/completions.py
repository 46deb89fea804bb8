"""Completions in the shapes that OpenAI's clients read."""

import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from starlette.concurrency import run_in_threadpool

from keras_lora.bank.completion import Completion
from keras_lora.serve.bodies import Complete
from keras_lora.serve.errors import log_failure
from keras_lora.serve.failures import Refused, body_of, refusal
from keras_lora.serve.inputs import check_text
from keras_lora.serve.streams import Stream

MOST_STOPS = 4
LONGEST_STOP = 200


def prompts_of(body: Complete, most: int, sampler: Any) -> list[str]:
    """The prompts of a request, checked."""
    others = body.not_served(sampler)
    prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    if others:
        raise Refused(
            422,
            f"{', '.join(others)}: only what changes nothing is "
            "served; the sampler is chosen when the server starts",
            "not_served",
            others[0],
        )
    if not 1 <= len(prompts) <= most:
        raise Refused(422, f"1 to {most:,} prompts a request", "invalid_input")
    for prompt in prompts:
        check_text(prompt)
    return prompts


def stops_of(body: Complete) -> list[str]:
    """The texts that end a completion."""
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    fine = all(0 < len(stop) <= LONGEST_STOP for stop in stops)
    if len(stops) > MOST_STOPS or not fine:
        raise Refused(
            422,
            f"`stop` is at most {MOST_STOPS} texts of 1 to {LONGEST_STOP} "
            "characters",
            "invalid_input",
            "stop",
        )
    return stops


class Until:
    """Lets a text through up to the first of some others.

    What may be the start of one is held back until it is known not to be.
    """

    def __init__(self, stops: list[str]) -> None:
        self._stops, self._held = stops, ""
        self.ended = False

    def next(self, text: str, is_last: bool) -> str:
        """What of the text so far is to be said now."""
        if self.ended:
            return ""
        text = self._held + text
        places = [text.find(stop) for stop in self._stops]
        found = [place for place in places if place >= 0]
        if found:
            self.ended, self._held = True, ""
            return text[: min(found)]
        kept = 0
        if not is_last:
            kept = max((overlap(text, s) for s in self._stops), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]


def overlap(text: str, stop: str) -> int:
    """How many characters at a text's end may be the start of another."""
    longest = min(len(text), len(stop) - 1)
    return next(
        (n for n in range(longest, 0, -1) if stop.startswith(text[-n:])), 0
    )


def choice(index: int, text: str, finish: str | None) -> dict[str, Any]:
    """One answer."""
    return {
        "index": index,
        "text": text,
        "logprobs": None,
        "finish_reason": finish,
    }


def usage(read: int, said: int) -> dict[str, int]:
    """What was read and generated, in tokens."""
    return {
        "prompt_tokens": read,
        "completion_tokens": said,
        "total_tokens": read + said,
    }


def envelope(model: str, choices: list[Any]) -> dict[str, Any]:
    """What stands around answers."""
    return {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": model,
        "choices": choices,
    }


def answer(
    model: str, found: list[Completion], stops: list[str]
) -> dict[str, Any]:
    """All answers of a request."""
    choices = []
    for index, completion in enumerate(found):
        until = Until(stops)
        text = until.next(completion.text, True)
        finish = "stop" if until.ended else completion.finish
        choices.append(choice(index, text, finish))
    read = sum(completion.prompt_tokens for completion in found)
    said = sum(completion.tokens for completion in found)
    return {**envelope(model, choices), "usage": usage(read, said)}


async def events(
    stream: Stream, rows: int, body: Complete, stops: list[str]
) -> AsyncIterator[bytes]:
    """A request's answers as server-sent events."""
    outer = envelope(body.model, [])
    untils = [Until(stops) for _ in range(rows)]
    finished = [False] * rows
    latest: list[Completion] = []
    try:
        while not all(finished):
            found = await run_in_threadpool(next, stream, None)
            if found is None:
                break
            latest = found
            choices = []
            for row, completion in enumerate(found):
                if finished[row]:
                    continue
                ends = completion.finish is not None
                text = untils[row].next(completion.text, ends)
                finish = "stop" if untils[row].ended else completion.finish
                finished[row] = finish is not None
                if text or finish:
                    choices.append(choice(row, text, finish))
            for one in choices:
                yield event({**outer, "choices": [one]})
        if body.stream_options and body.stream_options.include_usage:
            read = sum(completion.prompt_tokens for completion in latest)
            said = sum(completion.tokens for completion in latest)
            yield event({**outer, "usage": usage(read, said)})
        yield b"data: [DONE]\n\n"
    except Exception as error:
        log_failure(error)
        found_error = refusal(error)
        yield event(
            body_of(found_error.status, str(found_error), found_error.code)
        )
    finally:
        stream.close()


def event(value: dict[str, Any]) -> bytes:
    """One event."""
    return f"data: {json.dumps(value)}\n\n".encode()
