"""What `benchmarks.peft_exchange` runs where torch and PEFT are installed.

Makes tiny random checkpoints, trains PEFT adapters on them, and says what
torch computes with both; and with folders that keras_lora wrote.

    python benchmarks/peft_torch.py make FOLDER
    python benchmarks/peft_torch.py read FOLDER
"""

import json
import re
import sys
from pathlib import Path

import numpy as np
import peft
import torch
import transformers
from safetensors.torch import load_file, save_file

VOCABULARY = 50
LENGTH = 10
STEPS = 5
DECODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
ENCODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "pad_token_id": 0,
}
ROBERTA = {**ENCODER, "pad_token_id": 1, "layer_norm_eps": 1e-5}
GEMMA = {**DECODER, "head_dim": 16, "tie_word_embeddings": True}
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
}
FAMILIES = {
    "albert": ("SequenceClassification", {**ENCODER, "embedding_size": 16}),
    "bart": (
        "Seq2SeqLM",
        {
            "vocab_size": VOCABULARY,
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "max_position_embeddings": 64,
            "dropout": 0.0,
            "num_hidden_layers": 2,
        },
    ),
    "bert": (
        "SequenceClassification",
        {**ENCODER, "hidden_act": "gelu_pytorch_tanh"},
    ),
    "distilbert": (
        "SequenceClassification",
        {
            "vocab_size": VOCABULARY,
            "dim": 32,
            "hidden_dim": 48,
            "n_layers": 2,
            "n_heads": 4,
            "max_position_embeddings": 64,
            "dropout": 0.0,
            "attention_dropout": 0.0,
        },
    ),
    "esm": (
        "MaskedLM",
        {
            **ENCODER,
            "mask_token_id": 3,
            "position_embedding_type": "rotary",
            "token_dropout": False,
        },
    ),
    "gemma": ("CausalLM", GEMMA),
    "gemma2": (
        "CausalLM",
        {**GEMMA, "query_pre_attn_scalar": 16, "sliding_window": 32},
    ),
    "gemma3_text": (
        "CausalLM",
        {**GEMMA, "query_pre_attn_scalar": 16, "sliding_window": 32},
    ),
    "gpt2": (
        "CausalLM",
        {
            "vocab_size": VOCABULARY,
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 64,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
        },
    ),
    "llama": ("CausalLM", DECODER),
    "mistral": ("CausalLM", {**DECODER, "head_dim": 8}),
    "qwen2": ("CausalLM", DECODER),
    "qwen3": ("CausalLM", {**DECODER, "head_dim": 16}),
    "qwen3_moe": (
        "CausalLM",
        {**DECODER, **EXPERTS, "head_dim": 16, "norm_topk_prob": True},
    ),
    "roberta": ("SequenceClassification", ROBERTA),
    "smollm3": ("CausalLM", {**DECODER, "tie_word_embeddings": True}),
    "vit": (
        "ImageClassification",
        {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 16,
            "patch_size": 8,
        },
    ),
    "xlm-roberta": ("SequenceClassification", ROBERTA),
}
NORMS = {
    "albert": ["full_layer_layer_norm"],
    "bart": ["final_layer_norm"],
    "bert": ["output.LayerNorm"],
    "distilbert": ["output_layer_norm"],
    "esm": ["attention.LayerNorm"],
    "gpt2": ["ln_1"],
    "roberta": ["output.LayerNorm"],
    "vit": ["layernorm_before"],
    "xlm-roberta": ["output.LayerNorm"],
}
TABLES = {
    "albert": "word_embeddings",
    "bart": "shared",
    "bert": "word_embeddings",
    "distilbert": "word_embeddings",
    "esm": "word_embeddings",
    "gpt2": "wte",
    "roberta": "word_embeddings",
    "vit": "patch_embeddings.projection",
    "xlm-roberta": "word_embeddings",
}


def lora(**options):
    """A PEFT config whose A and B are not small."""
    return peft.LoraConfig(**{"r": 4, "lora_alpha": 12, **options})


def options_of(family, model):
    """The adapters that are tried, by name, each as a PEFT config."""
    names = linear_names(model)
    some = sorted({name.rpartition(".")[2] for name in names})
    norm = NORMS.get(family, ["input_layernorm"])
    table = TABLES.get(family, "embed_tokens")
    return {
        "LoRA": lora(target_modules=names),
        "rsLoRA, patterns": lora(
            target_modules=names,
            use_rslora=True,
            rank_pattern={some[0]: 2},
            alpha_pattern={some[-1]: 5},
        ),
        "DoRA": lora(target_modules=names, use_dora=True),
        "one block": lora(
            target_modules=[n for n in names if ".1." in n] or names[:1]
        ),
        "norms whole": lora(target_modules=names, modules_to_save=norm),
        "embedding whole": lora(target_modules=names, modules_to_save=[table]),
        "embedding LoRA": lora(target_modules=[*names, table]),
        "trained biases": lora(target_modules=names, bias="all"),
        "IA3": peft.IA3Config(target_modules=names[:1], feedforward_modules=[]),
        "PiSSA": lora(target_modules=names, init_lora_weights="pissa"),
    }


def linear_names(model):
    """The linear modules of the blocks, as they are called in torch."""
    kinds = (torch.nn.Linear, transformers.pytorch_utils.Conv1D)
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, kinds)
        and any(part.isdecimal() for part in name.split("."))
    ]


def make_model(family):
    """A family's model with random weights, which float16 holds."""
    kind, settings = FAMILIES[family]
    torch.manual_seed(0)
    known = "esm" if family == "esm" else family
    config = transformers.AutoConfig.for_model(known, **settings)
    config._attn_implementation = "eager"
    if kind.endswith("Classification"):
        config.num_labels = 3
    model = getattr(transformers, f"AutoModelFor{kind}").from_config(config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            scale = 0.1 if value.ndim == 1 else 0.2
            value.copy_(torch.randn_like(value) * scale)
            if value.ndim == 1 and "bias" not in name:
                value.add_(0 if family.startswith("gemma") else 1)
            if "token_type_embeddings" in name and "bert" in family:
                value.zero_() if family != "bert" else None
            value.copy_(value.half().float())
        if hasattr(model, "tie_weights"):
            model.tie_weights()
    return model.eval()


def modern(path):
    """Calls the weights of norms as published checkpoints do."""
    renamed = {
        re.sub("gamma$", "weight", re.sub("beta$", "bias", key)): value
        for key, value in load_file(path).items()
    }
    save_file(renamed, path, metadata={"format": "pt"})


def inputs_of(family):
    """Tokens or images; the same for Keras."""
    generator = np.random.default_rng(0)
    if family == "vit":
        shape = (2, 3, 16, 16)
        return {"pixel_values": generator.normal(size=shape).astype("float32")}
    tokens = generator.integers(4, VOCABULARY, (2, LENGTH))
    inputs = {"input_ids": tokens, "attention_mask": np.ones_like(tokens)}
    if family == "bart":
        inputs["decoder_input_ids"] = generator.integers(4, VOCABULARY, (2, 6))
    return inputs


def run(model, family, grad=False):
    """Logits of language models, else the last hidden state, and logits."""
    tensors = {k: torch.tensor(v) for k, v in inputs_of(family).items()}
    with torch.set_grad_enabled(grad):
        if FAMILIES[family][0].endswith("LM") and family != "esm":
            logits = model(**tensors).logits
            return logits, logits
        outputs = model(**tensors, output_hidden_states=True)
        hidden = outputs.hidden_states[-1]
        if family == "vit":
            kind = transformers.ViTModel
            (inner,) = [m for m in model.modules() if isinstance(m, kind)]
            hidden = inner.layernorm(hidden)
        return hidden, outputs.logits


def train(model, family):
    """A few steps towards random numbers."""
    rates = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(rates, lr=2e-2)
    torch.manual_seed(1)
    goal = None
    for _ in range(STEPS):
        out = torch.cat([y.flatten() for y in run(model, family, grad=True)])
        goal = torch.randn_like(out) if goal is None else goal
        loss = (out - goal).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def make(folder):
    """Writes a checkpoint of each family, adapters, and what torch computes."""
    for family in FAMILIES:
        here = folder / family
        if (here / "base.npz").exists():
            continue  # made by an earlier run
        report: dict[str, str] = {}
        model = make_model(family)
        model.save_pretrained(here / "checkpoint")
        modern(here / "checkpoint/model.safetensors")
        path = here / "checkpoint/config.json"
        config = {**FAMILIES[family][1], **json.loads(path.read_text())}
        path.write_text(json.dumps(config))  # some leave out what is read
        (here / "prefix").write_text(model.base_model_prefix)
        shown, logits = run(model, family)
        values = {"base": shown.numpy(), "base_logits": logits.numpy()}
        for name, config in options_of(family, model).items():
            try:
                adapted = peft.get_peft_model(make_model(family), config)
                train(adapted, family)
                adapted.eval()
                shown, logits = run(adapted, family)
                out = here / name.replace(" ", "_")
                adapted.save_pretrained(out)
                np.savez(
                    out / "expected.npz",
                    adapted=shown.numpy(),
                    logits=logits.numpy(),
                )
            except Exception as error:  # PEFT has no such adapter for it
                report[name] = f"{type(error).__name__}: {error}"[:200]
        print(family, report or "made", flush=True)
        (here / "not_made.json").write_text(json.dumps(report))
        np.savez(here / "base.npz", **inputs_of(family), **values)
    versions = {m.__name__: m.__version__ for m in (torch, transformers, peft)}
    (folder / "versions.json").write_text(json.dumps(versions))


def read(folder):
    """Loads what keras_lora wrote, and writes what torch computes with it."""
    report = {}
    for family in FAMILIES:
        for out in sorted((folder / family).glob("ours_*/adapter_config.json")):
            out = out.parent
            try:
                model = make_model(family)
                adapted = peft.PeftModel.from_pretrained(model, out).eval()
                loaded = peft.load_peft_weights(str(out))
                result = adapted.load_adapter(out, "again")
                assert not result.unexpected_keys, result.unexpected_keys
                assert loaded
                shown, logits = run(adapted, family)
                np.savez(
                    out / "torch.npz",
                    adapted=shown.numpy(),
                    logits=logits.numpy(),
                )
                report[f"{family}/{out.name}"] = "read"
            except Exception as error:
                report[f"{family}/{out.name}"] = (
                    f"{type(error).__name__}: {error}"[:400]
                )
            print(family, out.name, report[f"{family}/{out.name}"], flush=True)
    (folder / "read.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    {"make": make, "read": read}[sys.argv[1]](Path(sys.argv[2]))
