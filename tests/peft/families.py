"""A tiny backbone of each family that KerasHub reads from Hugging Face."""

from tests.models import hub

TEXT = {"vocabulary_size": 50, "num_layers": 2, "hidden_dim": 16}
DECODER = {
    **TEXT,
    "num_query_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_dim": 24,
}
ENCODER = {
    **TEXT,
    "num_heads": 2,
    "intermediate_dim": 24,
    "max_sequence_length": 12,
}
GEMMA = {**DECODER, "head_dim": 8}
MOE = {**DECODER, "num_experts": 3, "top_k": 2}
IMAGE = {
    "image_shape": (16, 16, 3),
    "patch_size": 8,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 16,
}
T5 = {
    f"{side}_{name}": value
    for side in ("encoder", "decoder")
    for name, value in {
        "hidden_dim": 16,
        "intermediate_dim": 24,
        "num_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "layer_types": ["full_attention"] * 2,
    }.items()
}
DINO = {**IMAGE, "position_embedding_shape": (16, 16, 3)}

FAMILIES = {
    "albert": ("Albert", {**ENCODER, "embedding_dim": 8}),
    "bart": ("Bart", ENCODER),
    "bert": ("Bert", ENCODER),
    "deit": ("DeiT", {**IMAGE, "intermediate_dim": 24}),
    "dinov2": ("DINOV2", {**DINO, "intermediate_dim": 24}),
    "dinov3": ("DINOV3", {**IMAGE, "intermediate_dim": 24}),
    "distilbert": ("DistilBert", ENCODER),
    "esm": ("ESM", ENCODER),
    "gemma": ("Gemma", GEMMA),
    "gemma2": (
        "Gemma",
        {**GEMMA, "use_post_ffw_norm": True, "use_post_attention_norm": True},
    ),
    "gemma3": (
        "Gemma3",
        {
            **GEMMA,
            "image_size": 16,
            "use_post_ffw_norm": True,
            "use_post_attention_norm": True,
        },
    ),
    "gemma4": ("Gemma4", {**GEMMA, "image_size": 16}),
    "gpt2": ("GPT2", ENCODER),
    "gpt_oss": ("GptOss", MOE),
    "llama": ("Llama", DECODER),
    "llama3": ("Llama3", DECODER),
    "mistral": ("Mistral", DECODER),
    "mixtral": ("Mixtral", MOE),
    "paligemma": (
        "PaliGemma",
        {
            **GEMMA,
            "num_key_value_heads": 1,
            "image_size": 16,
            "vit_patch_size": 8,
            "vit_num_heads": 2,
            "vit_hidden_dim": 16,
            "vit_num_layers": 2,
            "vit_intermediate_dim": 24,
        },
    ),
    "qwen2": ("Qwen", DECODER),
    "qwen2_moe": (
        "QwenMoe",
        {
            **MOE,
            "moe_intermediate_dim": 12,
            "shared_expert_intermediate_dim": 20,
        },
    ),
    "qwen3": ("Qwen3", GEMMA),
    "qwen3_5": (
        "Qwen3_5",
        {
            **GEMMA,
            "layer_types": ["full_attention", "linear_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
        },
    ),
    "qwen3_moe": (
        "Qwen3Moe",
        {**MOE, "head_dim": 8, "moe_intermediate_dim": 12},
    ),
    "roberta": ("Roberta", ENCODER),
    "smollm3": (
        "SmolLM3",
        {
            **TEXT,
            "intermediate_dim": 24,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "rope_layer_enabled_list": [True, True],
            "layer_types": ["full_attention"] * 2,
            "mlp_bias": False,
            "layer_norm_epsilon": 1e-6,
            "max_position_embeddings": 64,
            "rope_theta": 1e4,
            "partial_rotary_factor": 1.0,
        },
    ),
    "swin": (
        "SwinTransformer",
        {
            "image_shape": (32, 32, 3),
            "embed_dim": 8,
            "depths": [1, 1],
            "num_heads": [2, 2],
            "window_size": 4,
        },
    ),
    "t5gemma": ("T5Gemma", {"vocabulary_size": 50, **T5}),
    "t5gemma2": ("T5Gemma2", {"vocabulary_size": 50, **T5}),
    "vit": ("ViT", {**IMAGE, "mlp_dim": 24}),
    "xlm-roberta": ("XLMRoberta", ENCODER),
}


def tiny(family):
    """A family's backbone, with random weights."""
    name, options = FAMILIES[family]
    return getattr(hub().models, f"{name}Backbone")(**options)
