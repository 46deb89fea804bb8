"""KerasHub's converters say where a family's modules are: one test a family.

They are private parts of KerasHub. A release that changes them fails here.
"""

import itertools
import sys

import keras
import numpy as np
import pytest

import keras_lora
from keras_lora.model.paths import structural_paths
from keras_lora.peft import hub as converters
from keras_lora.peft.origin import origin_of
from keras_lora.peft.trace import Matrix
from tests.helpers import state
from tests.marks import pairs
from tests.models import hub
from tests.peft.families import FAMILIES, tiny
from tests.peft.fixtures import DATA, backbone, small_base

ATTENTION = "transformer_layer_1/self_attention"
DECODER = {
    "model.layers.1.self_attn.q_proj": f"{ATTENTION}/query",
    "model.layers.1.self_attn.o_proj": f"{ATTENTION}/attention_output",
}
MLP = {
    "model.layers.1.mlp.gate_proj": (
        "transformer_layer_1/feedforward_gate_dense"
    )
}
GEMMA = {
    "model.layers.1.self_attn.k_proj": "decoder_block_1/attention/key",
    "model.layers.1.mlp.down_proj": "decoder_block_1/ffw_linear",
}
BERT = {
    "encoder.layer.1.attention.self.value": f"{ATTENTION}_layer/value",
    "encoder.layer.1.output.dense": (
        "transformer_layer_1/feedforward_output_dense"
    ),
}
DINO = "encoder.layer.1.attention.attention.query"
SOME = {
    "albert": {
        "encoder.albert_layer_groups.0.albert_layers.0.attention.query": (
            "group_0_inner_layer_0/self_attention_layer/query"
        )
    },
    "bart": {
        "model.decoder.layers.1.encoder_attn.v_proj": (
            "transformer_decoder_layer_1/cross_attention/value"
        )
    },
    "bert": {**BERT, "bert.pooler.dense": "pooled_dense"},
    "distilbert": {
        "transformer.layer.1.ffn.lin1": (
            "transformer_layer_1/feedforward_intermediate_dense"
        )
    },
    "gemma": GEMMA,
    "gemma2": GEMMA,
    "gemma3": GEMMA,
    "gemma4": GEMMA,
    "gpt2": {
        "transformer.h.1.mlp.c_fc": (
            "transformer_layer_1/feedforward_intermediate_dense"
        )
    },
    "gpt_oss": DECODER,
    "llama": {**DECODER, **MLP},
    "llama3": {**DECODER, **MLP},
    "mistral": {**DECODER, **MLP},
    "mixtral": DECODER,
    "qwen2": {**DECODER, **MLP},
    "qwen2_moe": DECODER,
    "qwen3": {**DECODER, **MLP},
    "qwen3_moe": DECODER,
    "roberta": BERT,
    "vit": {
        "vit.encoder.layer.1.attention.attention.key": (
            "vit_encoder/transformer_block_2/mha/key"
        )
    },
    "xlm-roberta": BERT,
}
FUSED_IN_KERAS = {"swin": "attn/attention_qkv"}
"""Layers that hold several modules in one."""


@pytest.mark.parametrize("family", FAMILIES)
def test_every_linear_layer_has_its_module(family):
    base = tiny(family)
    before = state(base)
    layers = structural_paths(base)
    origin = origin_of(layers, None)
    assert state(base) == before
    mapped = {part.path for some in origin.parts.values() for part in some}
    fused = FUSED_IN_KERAS.get(family, "?")
    linear = keras_lora.find_targets(base) if family != "smollm3" else mapped
    assert set(linear) - mapped == {p for p in linear if p.endswith(fused)}
    for module, path in SOME.get(family, {}).items():
        assert path in [part.path for part in origin.parts_of(module)], module


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_and_columns_are_where_the_converter_puts_them(family):
    """Random weights go the converter's way, and ours."""
    layers = structural_paths(tiny(family))
    origin = origin_of(layers, None)
    generator = np.random.default_rng(0)
    for module, parts in origin.parts.items():
        ports = {port.path: port for port in origin.ports[f"{module}.weight"]}
        size_out = sum(len(part.rows_out) for part in parts)
        shape = size_out, len(parts[0].rows_in)
        weight = generator.normal(size=shape).astype("float32")
        for part in parts:
            theirs = weight.T.copy() if part.transposed else weight
            got = ports[part.path].through(theirs)
            mine = weight.T[part.rows_in][:, part.rows_out]
            want = Matrix(layers[part.path]).kernel(mine)
            np.testing.assert_array_equal(got, want)


def test_wide_layers_are_followed_beyond_a_digit():
    """Row numbers past 256, fused and in heads."""
    base = hub().models.GPT2Backbone(
        vocabulary_size=50,
        num_layers=1,
        num_heads=4,
        hidden_dim=320,
        intermediate_dim=700,
        max_sequence_length=8,
    )
    origin = origin_of(structural_paths(base), None)
    query, key, value = origin.parts["h.0.attn.c_attn"]
    for number, part in enumerate((query, key, value)):
        np.testing.assert_array_equal(
            part.rows_out, 320 * number + np.arange(320)
        )
    (down,) = origin.parts["h.0.mlp.c_proj"]
    np.testing.assert_array_equal(down.rows_in, np.arange(700))


def test_a_converter_that_fails_leaves_the_base_as_it_was(monkeypatch):
    base = backbone("gpt2")
    before = state(base)
    converter = converters.converter_of(base)
    convert = converter.convert_weights

    def fails(backbone, loader, config):
        convert(backbone, loader, config)
        for layer in backbone.transformer_layers:
            kernel = layer._feedforward_output_dense.kernel
            kernel.assign(np.zeros(kernel.shape))
        raise RuntimeError("in the middle")

    monkeypatch.setattr(converter, "convert_weights", fails)
    with pytest.raises(ValueError, match="in the middle"):
        keras_lora.load_peft(base, DATA / "gpt2/c_attn")
    assert state(base) == before


def test_a_family_without_a_converter_is_named():
    base = hub().models.OPTBackbone(
        vocabulary_size=50,
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=8,
    )
    with pytest.raises(ValueError, match="OPTBackbone.*give `names`"):
        keras_lora.load_peft(base, DATA / "llama/all_linear")


def test_without_kerashub_a_model_asks_for_names(monkeypatch):
    monkeypatch.delitem(sys.modules, "keras_hub", raising=False)
    with pytest.raises(ValueError, match="no KerasHub backbone"):
        keras_lora.load_peft(small_base(), DATA / "llama/all_linear")


@pytest.mark.parametrize(
    ("mode", "name"),
    pairs(
        [("int8", "gpt2/c_attn")],
        itertools.product(
            ["int8", "int4"], ["llama/all_linear", "gpt2/c_attn"]
        ),
    ),
)
def test_a_quantized_base_takes_a_folder(mode, name):
    """As QLoRA has it: the base is packed, the adapter is not."""
    base = backbone(name.split("/")[0])
    base.quantize(mode)
    keras_lora.load_peft(base, DATA / name)
    other = backbone(name.split("/")[0])
    keras_lora.load_peft(other, DATA / name)
    hosts = [keras_lora.summary(model) for model in (base, other)]
    assert len(hosts[0].rows) == len(hosts[1].rows) > 0
    for one, two in zip(
        base.trainable_variables, other.trainable_variables, strict=True
    ):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(two)
        )
