"""Which adapters come with the demo, how each is made, where figures are."""

from app.texts.tasks import TASKS

RESULTS = "results.json"
PROBES = "probes"
"""A folder by itself: the one around it is served, adapter by adapter."""
SHIPPED = tuple(TASKS)
METHODS = {"news-topic": "bottleneck"}
"""What is not LoRA, so that both kinds can be looked at."""
