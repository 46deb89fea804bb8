"""What the pages call tasks and methods, in plain English."""

TASKS = {
    "movie-sentiment": "film reviews",
    "tweet-sentiment": "tweets",
    "product-sentiment": "product reviews",
    "editorial-sentiment": "editorials",
    "text-source": "source of a text",
    "news-topic": "news topics",
}
METHODS = {
    "lora": "LoRA",
    "rslora": "rsLoRA",
    "svd": "PiSSA",
    "svd-minor": "MiLoRA",
    "eva": "EVA",
    "dora": "DoRA",
    "lora+": "LoRA+",
    "ia3": "IA3",
    "pfeiffer": "Pfeiffer bottlenecks",
    "houlsby": "Houlsby bottlenecks",
    "parallel": "parallel bottlenecks",
    "lora, last 2 blocks": "LoRA in the last 2 blocks",
    "lora on int8": "LoRA on an int8 base",
    "lora on int4": "LoRA on an int4 base",
}
SHORT = {
    "pfeiffer": "Pfeiffer",
    "houlsby": "Houlsby",
    "parallel": "parallel",
    "lora, last 2 blocks": "last 2 blocks",
    "lora on int8": "int8 base",
    "lora on int4": "int4 base",
}
"""Where there is little room."""


def task_name(task: str) -> str:
    """What a task is about."""
    return TASKS.get(task, task)


def method_name(name: str) -> str:
    """What a method is called in a table."""
    return METHODS.get(name, name)


def sentence(text: str) -> str:
    """A text with a capital first."""
    return text[:1].upper() + text[1:]


def short_name(name: str) -> str:
    """What a method is called in a plot."""
    return SHORT.get(name, method_name(name))


def listed(names: list[str]) -> str:
    """Some names as a sentence has them."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"
