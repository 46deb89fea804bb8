"""What clients send, as the page of the interface shows it."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "temperature": (0,),
    "top_p": (1,),
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logprobs": (),
    "suffix": ("",),
    "logit_bias": ({},),
}
"""Settings of OpenAI's that only these values of are taken, or null: the
server's sampler is the same for all."""
MOST_TOKENS = 100_000


class Body(BaseModel):
    """No field that is not known passes in silence."""

    model_config = ConfigDict(extra="forbid")


class Predict(Body):
    """Rows to answer."""

    model: str | list[str] = Field(
        description="An adapter, or the base; or one a row.",
        examples=["movie-sentiment", ["movie-sentiment", "text-source"]],
    )
    inputs: list[Any] | dict[str, Any] = Field(
        description=(
            "Texts, where the base has a preprocessor; or an array as lists "
            "in lists, rows first; or an object of arrays by the names of "
            "the base's inputs."
        ),
        examples=[["A fine film.", "The zoom is quick."]],
    )


class StreamOptions(Body):
    """OpenAI's."""

    include_usage: bool = False


class Complete(Body):
    """Prompts to complete: OpenAI's fields, as far as they are served."""

    model: str = Field(examples=["pirate"])
    prompt: str | list[str] = Field(examples=["Once upon a time"])
    max_tokens: int = Field(16, ge=1, le=MOST_TOKENS)
    stop: str | list[str] | None = Field(None, examples=["\n"])
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    seed: int | None = Field(
        None, description="Has no effect: the sampler is the server's."
    )
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = None
    best_of: int | None = None
    echo: bool | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logprobs: int | None = None
    suffix: str | None = None
    logit_bias: dict[str, float] | None = None

    @property
    def not_served(self) -> list[str]:
        """Settings that ask for what this server does not do."""
        return [
            name
            for name, values in NEUTRAL.items()
            if (given := getattr(self, name)) is not None
            and given not in values
        ]


class Load(Body):
    """vLLM's names of the fields."""

    lora_name: str = Field(examples=["movie-sentiment"])
    lora_path: str | None = Field(
        None,
        description="The name once more: files come from the folder alone.",
    )


class Unload(Body):
    """vLLM's names of the fields."""

    lora_name: str = Field(examples=["movie-sentiment"])
