"""LoRA: a low-rank update of a layer's kernel."""
