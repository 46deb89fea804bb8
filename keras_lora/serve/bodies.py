"""What clients send, as the page of the interface shows it."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, FailFast, Field, model_validator
from typing_extensions import TypeAliasType

NEUTRAL: dict[str, tuple[Any, ...]] = {
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
"""Settings of OpenAI's that are taken only with these values, or null."""
DETERMINISTIC = ("GreedySampler", "BeamSampler")
MOST_TOKENS = 100_000
MOST_FIELDS = 32
Texts = TypeAliasType("Texts", Annotated[list[str], FailFast()])
"""Texts, of which the first that is none ends the check: an error each would
take many times the memory of the body."""


class Body(BaseModel):
    """No field that is not known passes in silence."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _check_count(cls, given: Any) -> Any:
        if isinstance(given, dict) and len(given) > MOST_FIELDS:
            raise ValueError(f"a body has at most {MOST_FIELDS} fields")
        return given


class Predict(Body):
    """Rows to answer."""

    model: str | Texts = Field(
        description="An adapter, or the base; or one for each row.",
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
    prompt: str | Texts = Field(examples=["Once upon a time"])
    max_tokens: int = Field(16, ge=1, le=MOST_TOKENS)
    stop: str | Texts | None = Field(None, examples=["\n"])
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    seed: int | None = Field(
        None, description="Taken where the server's sampler draws nothing."
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
    logit_bias: Any = None

    def not_served(self, sampler: Any) -> list[str]:
        """Settings that ask for what this server does not do.

        Args:
            sampler: The language model's, the same for all; None for greedy.
        """
        kinds = {kind.__name__ for kind in type(sampler).__mro__}
        neutral = {"temperature": (0,), **NEUTRAL}
        if sampler is not None and kinds.isdisjoint(DETERMINISTIC):
            own = getattr(sampler, "temperature", 1)
            neutral |= {"temperature": (own,), "seed": ()}
        return [
            name
            for name, values in neutral.items()
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
