"""What a slow client gets, and what is read of it."""

import asyncio
import json

import pytest

from keras_lora.serve.gate import Gate, Limits

SCOPE = {
    "type": "http",
    "method": "POST",
    "path": "/v1/predict",
    "headers": [(b"content-length", b"10")],
}


def answer_of(parts, limits, wait=0.0, token=None):
    """What a request is answered whose body comes in parts."""
    sent, got, asked = [], [], []

    async def app(scope, receive, send):
        message = await receive()
        got.append(message["body"])
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"{}"})

    async def receive():
        asked.append(1)
        await asyncio.sleep(wait)
        if not parts:
            return {"type": "http.disconnect"}
        body = parts.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(parts)}

    async def send(message):
        sent.append(message)

    seen = []
    gate = Gate(app, token=token, limits=limits, seen=lambda *s: seen.append(s))
    asyncio.run(gate(dict(SCOPE), receive, send))
    assert gate._held == 0
    [(path, status, _)] = seen
    assert path == SCOPE["path"] and status == sent[0]["status"]
    return status, got, len(asked), sent


def test_a_body_in_parts_arrives_whole():
    status, got, _, _ = answer_of([b"12", b"345", b""], Limits())
    assert (status, got) == (200, [b"12345"])


@pytest.mark.parametrize(
    "parts, wait, limits, status, read",
    [
        ([b"1"] * 50, 0.05, Limits(seconds=0.12), 408, 4),
        ([b"1"] * 50, 0.0, Limits(body=20), 413, 21),
        ([b"1"] * 50, 0.0, Limits(bodies=20), 429, 21),
    ],
)
def test_what_is_slow_or_large_is_read_no_further(
    parts, wait, limits, status, read
):
    found, got, asked, sent = answer_of(parts, limits, wait)
    assert (found, got) == (status, []) and asked <= read
    assert (b"connection", b"close") in sent[0]["headers"]
    assert json.loads(sent[1]["body"])["error"]["message"]


def test_nothing_is_read_without_the_token():
    status, got, asked, _ = answer_of([b"1"], Limits(), token="secret")
    assert (status, got, asked) == (401, [], 0)


def test_no_more_requests_of_a_route_are_begun_than_are_answered():
    answers = []

    async def app(scope, receive, send):
        await asyncio.sleep(0.1)
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"{}"})

    async def receive():
        return {"type": "http.request", "body": b"{}"}

    async def send(message):
        if "status" in message:
            answers.append(message["status"])

    limits = Limits(requests=2)
    gate = Gate(app, token=None, limits=limits, seen=lambda *seen: None)

    async def several():
        paths = ["/v1/predict"] * 5 + ["/v1/completions"]
        scopes = [{**SCOPE, "path": path} for path in paths]
        await asyncio.gather(*(gate(s, receive, send) for s in scopes))

    for _ in range(2):
        asyncio.run(several())
        assert sorted(answers) == [200] * 3 + [429] * 3
        answers.clear()


def test_a_client_that_leaves_is_no_failure():
    status, got, _, _ = answer_of([], Limits())
    assert (status, got) == (400, [])
