"""What `benchmarks.server` and `benchmarks.hostile_clients` found, as text."""

from typing import Any

from benchmarks.markdown import spread, table

HEAD = ["requests per second", "p50 ms", "p99 ms", "refused", "wrong"]


def server(result: dict[str, Any]) -> str:
    """The server under load."""
    parts = [
        "## A server under load",
        "`keras-lora serve` on a BERT of two blocks 128 wide, with 16 adapters "
        "of rank 8 that have a head each. 32 clients on the same machine ask "
        "for one row of 32 tokens at a time, and ask again as soon as they "
        "are answered. Clients, server and Ray, where it is used, share the "
        "cores. *p50* and *p99* are the times within which half and 99 % of "
        "the requests were answered. *Refused* counts the answers of another "
        "status than 200. *Wrong* counts the answers that are not those of "
        "the adapter alone.",
        f"`python -m benchmarks.server` on {result['machine']}.",
    ]
    for case, section in SECTIONS.items():
        if case in result:
            parts.append(section(result[case]))
    return "\n\n".join(parts)


def row(name: str, found: dict[str, Any]) -> list[str]:
    """A load's figures; those of several rounds with their quartiles."""
    several = isinstance(found["p50_ms"], list)
    figures = (
        spread(found[key], 0) if several else f"{found[key]:,.0f}"
        for key in ("requests_a_second", "p50_ms", "p99_ms")
    )
    refused = {k: v for k, v in found["statuses"].items() if k != "200"}
    return [
        name,
        *figures,
        ", ".join(f"{v:,} x {k}" for k, v in refused.items()) or "none",
        f"{found['wrong']:,}",
    ]


def speed(found: dict[str, Any]) -> str:
    """Mixed, one adapter, and batches of one."""
    rows = [row(case, one) for case, one in found["cases"].items()]
    return "\n\n".join(
        [
            table(["case", *HEAD], rows),
            f"Mixed requests come to {spread(found['mixed_over_one'])} of one "
            f"adapter's and to {spread(found['mixed_over_batch_1'])} x those "
            "of a server whose batches have one row. It answered "
            f"{found['seconds_to_start']:.0f} s after its start and held "
            f"{found['megabytes']:,.0f} MB.",
        ]
    )


def crowd(found: dict[str, Any]) -> str:
    """500 clients."""
    rows = [
        [*row(what, found[what]), f"{found[what]['megabytes']:,.0f}"]
        for what in ("before", "500 clients", "after")
    ]
    return (
        "500 clients at once: one that is told 429 asks again after a second, "
        "as `Retry-After` says.\n\n"
        + table(["500 clients at once", *HEAD, "MB"], rows)
    )


def changes(found: dict[str, Any]) -> str:
    """How many changes, and what was served in the end."""
    made = ", ".join(f"{v} x {k}" for k, v in found["changes"].items())
    same = set(found["served"]) | set(found["not_served"]) == set(
        found["on_disk"]
    )
    return (
        f"Changes: {made}. In the end the server served "
        f"{len(found['served'])} adapters, "
        + ("all of those in the folder" if same else "not those in the folder")
        + f", and reported {', '.join(found['not_served']) or 'none'}."
    )


def churn(found: dict[str, Any]) -> str:
    """The folder changes."""
    return "\n\n".join(
        [
            "While the folder changes, a name that is not there is told 404:",
            table(["case", *HEAD], [row("50 changes", found)]),
            changes(found),
        ]
    )


def end(found: dict[str, Any]) -> str:
    """SIGTERM."""
    return "\n\n".join(
        [
            "SIGTERM after three seconds: what the server had taken is "
            "answered, and what comes later finds none (status 0):",
            table(["case", *HEAD], [row("SIGTERM", found)]),
            f"It ended with exit code {found['exit_code']}.",
        ]
    )


def ray(found: dict[str, Any]) -> str:
    """Replicas."""
    rows = []
    for replicas in ("1 replicas", "2 replicas"):
        for case in ("mixed", "one adapter"):
            one = found[replicas]
            rows.append(
                [
                    *row(f"{replicas[0]}, {case}", one[case]),
                    f"{one['seconds_to_start']:.0f}",
                    f"{one['megabytes']:,.0f}",
                ]
            )
    others = [
        row("2, one of them killed", found["a replica is killed"]),
        row("2, 50 changes", found["churn"]),
    ]
    return "\n\n".join(
        [
            "The same on Ray Serve. Its proxy, controller and replicas share "
            "these two cores with the clients, so this says nothing of Ray "
            "on a larger machine. *Start* is the time until the first answer.",
            table(
                ["replicas", *HEAD, "start s", "MB"],
                rows + [[*other, "", ""] for other in others],
            ),
            changes(found["churn"]),
        ]
    )


SECTIONS = {
    "speed": speed,
    "crowd": crowd,
    "churn": churn,
    "end": end,
    "ray": ray,
}


def hostile(result: dict[str, Any]) -> str:
    """A line for each attack."""
    rows = [
        [
            one["attack"],
            one["got"].removeprefix("HTTP/1.1 "),
            f"{one['seconds']:.1f}",
            f"{one['peak_mb']:,.0f}",
            "yes" if one["right_after"] else "**no**",
        ]
        for one in result["attacks"]
    ]
    return "\n\n".join(
        [
            "## A server that is attacked",
            "One attack after the other. *Got* is what the attacker was told, "
            "*MB* is the memory above what it was before the first attack, and "
            "*right after* says whether a plain client then got the right "
            "answer. "
            f"`python -m benchmarks.hostile_clients` on {result['machine']}.",
            table(["attack", "got", "s", "MB", "right after"], rows),
            f"In the end it held {result['grown_mb']:,.0f} MB more, and had "
            f"logged {result['log_bytes']:,} bytes.",
        ]
    )
