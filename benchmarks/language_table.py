"""What was found of language models, as Markdown."""

from typing import Any

from benchmarks.markdown import table, where


def perplexity(result: dict[str, Any]) -> str:
    """Each source's texts, read by the base and by each adapter."""
    read = result["perplexity"]
    rows = []
    for source in result["held_out"]:
        figures = {reader: row[source] for reader, row in read.items()}
        best = min(figures, key=lambda reader: figures[reader])
        rows.append(
            [
                f"{source}, {result['held_out'][source]:,} texts",
                *(
                    f"**{value:.0f}**" if reader == best else f"{value:.0f}"
                    for reader, value in figures.items()
                ),
            ]
        )
    head = ["held-out texts", "base", *(f"adapter: {name}" for name in read)]
    head.remove("adapter: base")
    seconds = result["seconds"]
    kilobytes = max(result["bytes"].values()) / 1e3
    return "\n\n".join(
        [
            "## Perplexity",
            "A GPT-2 pretrained on texts of four sources, and an adapter for "
            "each source, as in [Train a language model]"
            "(how-to/language-models.md). *Perplexity* says between how many "
            "tokens, as it were, a model hesitates at each token: lower is "
            "better. It is of the answers' tokens in texts that were in no "
            "training; the lowest of a row is bold. The base has "
            f"{result['weights']:,} weights and took {seconds['base']:.0f} s "
            "to pretrain, at times beside other work. An adapter took "
            f"{min(list(seconds.values())[1:]):.0f} to "
            f"{max(list(seconds.values())[1:]):.0f} s, and its file has "
            f"{kilobytes:.0f} kB.",
            where(result, "python -m benchmarks.perplexity"),
            table(head, rows),
        ]
    )


def language_memory(result: dict[str, Any]) -> str:
    """A language model's step, by rank, length and rematerialization."""
    cells = {
        (cell["way"], cell["length"], cell["rank"]): cell
        for cell in result["cells"]
    }
    lengths = sorted({length for _, length, _ in cells})
    ranks = sorted({rank for _, _, rank in cells})
    usual = result["settings"]["rank"]
    ways = list(dict.fromkeys(way for way, _, _ in cells))

    def peaks(way: str, rank: int) -> list[str]:
        found = [cells[way, length, rank] for length in lengths]
        return [f"{cell['peak_mb']:,.0f} MB" for cell in found]

    head = [f"{length:,} tokens" for length in lengths]
    named = {
        "plain": "nothing",
        "activations": '`RematScope("activations")`',
        "blocks": "blocks, by `keras.remat`",
    }
    return "\n\n".join(
        [
            "## Memory of a language model",
            "LoRA steps of a GPT-2 of random weights, by rank and by the "
            "length of the texts. A cell is the peak of a process of its own, "
            "with TensorFlow and Keras: the median of the rounds, in which "
            "the cells take turns.",
            where(result, "python -m benchmarks.language_memory"),
            "<!-- --8<-- [start:language-memory] -->",
            table(
                ["rank", *head],
                [[str(rank), *peaks("plain", rank)] for rank in ranks],
            ),
            "<!-- --8<-- [end:language-memory] -->",
            f"With blocks or activations that are computed again on the way "
            f"back, at rank {usual}:",
            "<!-- --8<-- [start:rematerialized] -->",
            table(
                ["computed again", *head],
                [[named[way], *peaks(way, usual)] for way in ways],
            ),
            "<!-- --8<-- [end:rematerialized] -->",
        ]
    )
