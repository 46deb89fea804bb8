"""Language models: every row of a call with its own adapter."""

import os
import random
import threading
import time

import keras
import numpy as np
import pytest

import keras_lora
from keras_lora import AdapterBank
from tests.banks import sequential, served
from tests.marks import pairs
from tests.models import set_random

TORCH = keras.backend.backend() == "torch"

keras_hub = pytest.importorskip("keras_hub")

VOCABULARY, LENGTH = 90, 24
SIZES = (3, 7, 12, 5, 9, 4, 11, 6)
SMALL = {"vocabulary_size": VOCABULARY, "num_layers": 2, "hidden_dim": 16}


def positioned(backbone, task, preprocessor=None, **more):
    """A model that knows places by an embedding."""
    made = getattr(keras_hub.models, backbone)(
        num_heads=2,
        intermediate_dim=32,
        max_sequence_length=LENGTH,
        dropout=0.0,
        **{**SMALL, **more},
    )
    return getattr(keras_hub.models, task)(made, preprocessor=preprocessor)


def grouped(kind, **more):
    backbone = getattr(keras_hub.models, f"{kind}Backbone")(
        num_query_heads=2,
        num_key_value_heads=1,
        intermediate_dim=32,
        **SMALL,
        **more,
    )
    task = getattr(keras_hub.models, f"{kind}CausalLM")
    return task(backbone=backbone, preprocessor=None)


FAMILIES = {
    "gpt2": lambda: positioned("GPT2Backbone", "GPT2CausalLM"),
    "llama": lambda: grouped("Llama"),
    "gemma": lambda: grouped("Gemma", head_dim=8),
    "mistral": lambda: grouped("Mistral"),
    "qwen": lambda: grouped("Qwen"),
    "bart": lambda: positioned("BartBackbone", "BartSeq2SeqLM"),
}


def language_model(family="gpt2", sampler="greedy"):
    """A model whose next tokens are far enough apart not to depend on noise."""
    task = FAMILIES[family]()
    set_random(task.weights, seed=1, size=0.3)
    task.compile(sampler=sampler)
    return task


def prompts(sizes=SIZES, length=LENGTH, seed=0, seq2seq=False):
    rng = np.random.default_rng(seed)
    ids = np.zeros((len(sizes), length), "int32")
    mask = np.zeros(ids.shape, bool)
    for row, size in enumerate(sizes):
        ids[row, :size] = rng.integers(3, VOCABULARY, size)
        mask[row, :size] = True
    if not seq2seq:
        return {"token_ids": ids, "padding_mask": mask}
    read = np.ones((len(sizes), 10), bool)
    for row in range(len(sizes)):
        read[row, 5 + row % 5 :] = False
    return {
        "encoder_token_ids": rng.integers(3, VOCABULARY, read.shape),
        "encoder_padding_mask": read,
        "decoder_token_ids": ids,
        "decoder_padding_mask": mask,
    }


def prompts_of(task, **options):
    seq2seq = isinstance(task, keras_hub.models.Seq2SeqLM)
    return prompts(seq2seq=seq2seq, **options)


def write(task, path, config, seed=1, size=0.5, over=None):
    """An adapter that changes what is said."""
    base = over or task
    keras_lora.inject(base, config)
    set_random(base.trainable_variables, seed=seed, size=size)
    keras_lora.save_adapter(base, path)
    keras_lora.eject(base)
    return path


def rows_of(asked, rows):
    return {name: value[rows] for name, value in asked.items()}


def alone(task, asked, paths, names, stop=None, sampler="greedy", over=None):
    """Each row by KerasHub itself, on the adapted model, on its own."""
    base = over or task
    found = [None] * len(names)
    task.compile(sampler=sampler)
    for name in sorted(set(names), key=lambda n: (n is not None, n)):
        if name is not None:
            put_on(task, base, paths[name])
        for row, its in enumerate(names):
            if its == name:
                found[row] = task.generate(
                    rows_of(asked, [row]), stop_token_ids=stop
                )
    if any(names):
        keras_lora.eject(base)
        task.compile(sampler=sampler)
    return {
        key: np.concatenate([one[key] for one in found]) for key in found[0]
    }


def put_on(task, base, path):
    """Loads an adapter; one like that which is there traces nothing again."""
    try:
        keras_lora.load_adapter(base, path)
    except ValueError:
        keras_lora.eject(base)
        keras_lora.load_adapter(base, path)
    if task.generate_function is None:
        task.compile(sampler=task.sampler)


def same(got, want):
    for name in want:
        if name.endswith("token_ids"):
            mask = want[name.replace("token_ids", "padding_mask")]
            np.testing.assert_array_equal(got[name] * mask, want[name] * mask)
        else:
            np.testing.assert_array_equal(got[name], want[name])


def is_changed(got, want):
    """Whether each row says something else."""
    name = next(n for n in got if n.endswith("token_ids") and "en" not in n[:2])
    return (got[name] != want[name]).any(1)


NAMES = ["a", "b", None, "c", "b", "a", "c", None]


@pytest.fixture(scope="module")
def gpt(tmp_path_factory):
    """A model, its adapters, prompts, and what each row is to say."""
    folder = tmp_path_factory.mktemp("adapters")
    task = language_model()
    paths = {
        name: write(
            task, folder / name, keras_lora.LoRAConfig(rank=3), seed=seed
        )
        for seed, name in enumerate("abc", 1)
    }
    asked = prompts()
    return task, paths, asked, alone(task, asked, paths, NAMES)


def with_adapters(bank, paths):
    for name, path in paths.items():
        bank.load(name, path)
    return bank


@pytest.mark.parametrize("family", pairs(["gpt2"], FAMILIES))
def test_mixed_rows_are_what_each_is_alone(family, tmp_path):
    task = language_model(family)
    config = keras_lora.LoRAConfig(rank=3, targets="all-linear")
    paths = {
        name: write(task, tmp_path / name, config, seed=seed)
        for seed, name in enumerate("abc", 1)
    }
    asked = prompts_of(task)
    want = alone(task, asked, paths, NAMES)
    base = alone(task, asked, paths, [None] * 8)
    changed = is_changed(want, base)
    assert changed[[0, 1, 3, 4, 5, 6]].all() and not changed[[2, 7]].any()
    with served(task) as bank:
        with_adapters(bank, paths)
        same(bank.generate(asked, NAMES, stop_token_ids=None), want)
        same(bank.generate(asked, None, stop_token_ids=None), base)
        one = rows_of(asked, [4])
        got = bank.generate(one, "b", stop_token_ids=None)
        same(got, rows_of(want, [4]))


@pytest.mark.extra
@pytest.mark.parametrize("sampler", ["contrastive", "beam"])
def test_samplers_that_look_at_several_tokens(sampler, gpt):
    task, paths, asked, _ = gpt
    want = alone(task, asked, paths, NAMES, sampler=sampler)
    with served(task) as bank:
        with_adapters(bank, paths)
        same(bank.generate(asked, NAMES, stop_token_ids=None), want)
        stop = (5, 6, 7, 8, 9, 10, 11, 12, 13)
    want = alone(task, asked, paths, NAMES, stop=stop, sampler=sampler)
    with served(task) as bank:
        with_adapters(bank, paths)
        same(bank.generate(asked, NAMES, stop_token_ids=stop), want)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["top_k", "top_p"])
def test_samplers_that_draw(sampler, gpt):
    """Draws are the batch's: with one token to choose from they are known."""
    task, paths, asked, want = gpt
    kinds = {
        "top_k": keras_hub.samplers.TopKSampler(k=1, seed=1),
        "top_p": keras_hub.samplers.TopPSampler(p=1e-6, k=1, seed=1),
    }
    task.compile(sampler=kinds[sampler])
    with served(task) as bank:
        with_adapters(bank, paths)
        same(bank.generate(asked, NAMES, stop_token_ids=None), want)
    task.compile(sampler=keras_hub.samplers.TopKSampler(k=5, seed=1))
    with served(task) as bank:
        with_adapters(bank, paths)
        first, second = (
            bank.generate(asked, NAMES, stop_token_ids=None) for _ in range(2)
        )
        assert is_changed(first, second).any()
    task.compile(sampler="greedy")


def test_rows_end_at_stop_tokens_of_their_own(gpt):
    task, paths, asked, free = gpt
    first = [int(free["token_ids"][row, 13 + row % 8]) for row in range(8)]
    stop = tuple(sorted(set(first[:3])))
    want = alone(task, asked, paths, NAMES, stop=stop)
    lengths = set(want["padding_mask"].sum(1).tolist())
    assert len(lengths) > 2, lengths
    with served(task) as bank:
        with_adapters(bank, paths)
        same(bank.generate(asked, NAMES, stop_token_ids=stop), want)
        got = bank.generate(asked, NAMES, stop_token_ids=list(stop))
        same(got, want)


CONFIGS = {
    "rslora": keras_lora.LoRAConfig(rank=3, scale="rslora"),
    "dora": keras_lora.DoRAConfig(rank=2),
    "ia3": keras_lora.IA3Config(),
    "pfeiffer": keras_lora.AdapterConfig(bottleneck=3, placement="pfeiffer"),
    "houlsby": keras_lora.AdapterConfig(bottleneck=3, placement="houlsby"),
    "parallel": keras_lora.AdapterConfig(
        bottleneck=3,
        placement="parallel",
        targets=["feedforward_output_dense"],
    ),
    "bottleneck": keras_lora.AdapterConfig(
        bottleneck=3, layer_norm=True, targets=["feedforward_output_dense"]
    ),
    "embedding": keras_lora.LoRAConfig(rank=2, targets=["token_embedding"]),
}


@pytest.mark.extra
def test_rows_of_all_methods(tmp_path):
    task = language_model()
    paths = {}
    for seed, (name, config) in enumerate(CONFIGS.items()):
        try:
            paths[name] = write(task, tmp_path / name, config, seed=seed)
        except ValueError as error:
            raise AssertionError(f"{name}: {error}") from error
    asked, names = prompts(), list(CONFIGS)
    want = alone(task, asked, paths, names)
    base = alone(task, asked, paths, [None] * 8)
    assert is_changed(want, base).all()
    with served(task) as bank:
        with_adapters(bank, paths)
        same(bank.generate(asked, names, stop_token_ids=None), want)


@pytest.mark.extra
@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_quantized_bases(mode, tmp_path):
    task = language_model()
    task.quantize(mode)
    config = keras_lora.LoRAConfig(rank=3)
    paths = {
        name: write(task, tmp_path / name, config, seed=seed)
        for seed, name in enumerate("abc", 1)
    }
    asked = prompts()
    want = alone(task, asked, paths, NAMES)
    with served(task) as bank:
        with_adapters(bank, paths)
        same(bank.generate(asked, NAMES, stop_token_ids=None), want)


@pytest.mark.slow
def test_a_bank_over_the_backbone(gpt, tmp_path):
    task, _, asked, _ = gpt
    backbone = task.backbone
    config = keras_lora.LoRAConfig(rank=3)
    paths = {
        name: write(task, tmp_path / name, config, seed=seed, over=backbone)
        for seed, name in enumerate("abc", 1)
    }
    want = alone(task, asked, paths, NAMES, over=backbone)
    other = language_model()
    with served(backbone) as bank:
        with_adapters(bank, paths)
        same(bank.generate(asked, NAMES, stop_token_ids=None), want)
        got = bank.generate(asked, NAMES, stop_token_ids=None, task=task)
        same(got, want)
        with pytest.raises(ValueError, match="not over the bank's base"):
            bank.generate(asked, NAMES, stop_token_ids=None, task=other)


def calls_of(layer):
    """Counts how often Python runs a layer: once for each trace."""
    calls, call = [], layer.call

    def counted(*args, **kwargs):
        calls.append(1)
        return call(*args, **kwargs)

    layer.call = counted
    return calls


@pytest.mark.extra
def test_one_trace_over_mixes_and_evictions(gpt):
    task, paths, asked, _ = gpt
    rng = np.random.default_rng(3)
    answers = {
        name: alone(task, asked, paths, [name] * 8) for name in [None, *paths]
    }
    with served(task, capacity=2, rank=3) as bank:
        with_adapters(bank, paths)
        names = ["a", "b", None, "a", "b", None, "a", "b"]
        bank.generate(asked, names, stop_token_ids=None)
        calls = calls_of(task.backbone.transformer_layers[0])
        missed = bank.cache_misses
        for number in range(50):
            two = rng.choice(["a", "b", "c"], 2, replace=False).tolist()
            names = [[*two, None][n] for n in rng.integers(0, 3, 8)]
            got = bank.generate(asked, names, stop_token_ids=None)
            for row, name in enumerate(names):
                same(rows_of(got, [row]), rows_of(answers[name], [row]))
            if number % 10 == 0:
                bank.load("b", paths["b"])
        assert bank.cache_misses > missed + 10
        if not TORCH:
            assert not calls
        del task.backbone.transformer_layers[0].__dict__["call"]


@pytest.mark.extra
def test_few_lengths_and_sizes_are_compiled(gpt):
    task, paths, _, _ = gpt
    with served(task, rank=3) as bank:
        with_adapters(bank, paths)
        calls = calls_of(task.backbone.transformer_layers[0])
        for length in range(17, 25):
            for count in (5, 6, 7, 8):
                asked = prompts(SIZES[:count], length)
                names = NAMES[:count]
                got = bank.generate(asked, names, stop_token_ids=None)
                assert got["token_ids"].shape == (count, length)
        traced = len(calls)
        del task.backbone.transformer_layers[0].__dict__["call"]
    if not TORCH:
        assert traced <= 3, traced  # prefill, and one token at a time
    asked = prompts(SIZES, 19)
    want = alone(task, asked, paths, NAMES)
    with served(task, rank=3) as bank:
        with_adapters(bank, paths)
        same(bank.generate(asked, NAMES, stop_token_ids=None), want)


@pytest.mark.extra
def test_rows_of_wide_adapters_beside_narrow_ones(gpt, tmp_path):
    task, paths, asked, narrow = gpt
    config = keras_lora.LoRAConfig(rank=20)
    wide = write(task, tmp_path / "wide", config, seed=9)
    paths = {**paths, "c": wide}
    want = alone(task, asked, paths, NAMES)
    assert is_changed(want, narrow).tolist() == [n == "c" for n in NAMES]
    with served(task) as bank:
        with_adapters(bank, paths)
        same(bank.generate(asked, NAMES, stop_token_ids=None), want)


@pytest.mark.extra
def test_more_adapters_than_slots_and_than_rows_of_a_batch(gpt):
    task, paths, asked, want = gpt
    with served(task, capacity=1) as bank:
        with_adapters(bank, paths)
        got = bank.generate(asked, NAMES, stop_token_ids=None, batch_size=3)
        same(got, want)


@pytest.mark.extra
def test_after_the_bank_grew_the_next_call_is_right(gpt, tmp_path):
    task, paths, asked, _ = gpt
    more = {
        "a": paths["a"],
        "rank": write(task, tmp_path / "r", keras_lora.LoRAConfig(rank=9)),
        "kind": write(task, tmp_path / "k", CONFIGS["bottleneck"]),
    }
    names = ["a", "rank", None, "kind", "rank", "a", "kind", None]
    want = alone(task, asked, more, names)
    assert len({tuple(row) for row in want["token_ids"].tolist()}) == 8
    with served(task) as bank:
        for number, name in enumerate(more, 1):
            bank.load(name, more[name])
            there = [n if n in list(more)[:number] else None for n in names]
            got = bank.generate(asked, there, stop_token_ids=None)
            for row, its in enumerate(there):
                if its == names[row]:
                    same(rows_of(got, [row]), rows_of(want, [row]))


def test_a_call_goes_on_with_what_it_began_with(gpt, monkeypatch):
    """Replaced, unloaded and grown over between two of its batches."""
    task, paths, asked, want = gpt
    with served(task, capacity=2) as bank:
        with_adapters(bank, paths)
        gather, done = bank._gather, []

        def changing(*args):
            found = gather(*args)
            if not done:
                done.append(1)
                bank.load("a", paths["b"])
                bank.unload("b")
                bank.unload("c")
            return found

        monkeypatch.setattr(bank, "_gather", changing)
        got = bank.generate(asked, NAMES, stop_token_ids=None, batch_size=2)
        same(got, want)
        assert bank.names == ["a"]


def test_a_generation_does_not_hold_the_bank(gpt):
    """Another thread predicts, loads and unloads while tokens are made."""
    task, paths, asked, want = gpt
    with served(task, capacity=1, rank=3) as bank:
        with_adapters(bank, paths)
        bank.generate(asked, "a", stop_token_ids=None)
        made = bank._generator._made[None]
        inside, go_on = threading.Event(), threading.Event()

        def slow(*args):
            inside.set()
            assert go_on.wait(60)
            return made(*args)

        bank._generator._made[None] = slow
        got = []
        thread = threading.Thread(
            target=lambda: got.append(
                bank.generate(asked, "a", stop_token_ids=None)
            )
        )
        thread.start()
        assert inside.wait(60)
        bank.predict(asked, adapter="b")
        bank.unload("a")
        bank.load("a", paths["c"])
        bank.load("d", paths["c"])
        bank._generator._made[None] = made
        other = bank.generate(asked, "b", stop_token_ids=None)
        go_on.set()
        thread.join()
        for answer, name in ((got[0], "a"), (other, "b")):
            for row, its in enumerate(NAMES):
                if its == name:
                    same(rows_of(answer, [row]), rows_of(want, [row]))


def test_detaching_waits_for_generations(gpt):
    task, paths, asked, want = gpt
    bank = with_adapters(AdapterBank(task), paths)
    bank.generate(asked, NAMES, stop_token_ids=None)
    made, inside = bank._generator._made[None], threading.Event()

    def slow(*args):
        inside.set()
        time.sleep(0.3)
        return made(*args)

    bank._generator._made[None] = slow
    got = []
    thread = threading.Thread(
        target=lambda: got.append(
            bank.generate(asked, NAMES, stop_token_ids=None)
        )
    )
    thread.start()
    assert inside.wait(60)
    bank.detach()
    thread.join()
    same(got[0], want)
    with pytest.raises(ValueError, match="detached"):
        bank.generate(asked, NAMES, stop_token_ids=None)


def test_what_is_refused(gpt):
    task, paths, asked, _ = gpt
    with served(task) as bank:
        with_adapters(bank, paths)

        def refused(*words, **options):
            options = {"stop_token_ids": None, "inputs": asked, **options}
            with pytest.raises(ValueError) as caught:
                bank.generate(**options)
            for word in words:
                assert word in str(caught.value), str(caught.value)

        refused("'no'", "'nor'", "a, b, c", adapter=["no", "nor"] * 4)
        refused("2 adapters", "8 rows", adapter=["a", "b"])
        refused("batch_size", "max_length", batch_size=0, max_length=-1)
        refused("auto", "preprocessor", stop_token_ids="auto")
        refused("dict", "list", inputs=["text"])
        refused("padding_mask", inputs={"token_ids": asked["token_ids"]})
        with pytest.raises(ValueError, match="tokens"):
            next(bank.stream(asked, stop_token_ids=None, tokens=0))


def test_a_base_that_is_no_language_model_says_so():
    with served(sequential()) as bank, pytest.raises(ValueError, match="task"):
        bank.generate({}, stop_token_ids=None)


# New tokens as they come.


def test_a_stream_says_what_generate_says(gpt):
    task, paths, asked, want = gpt
    with served(task, capacity=2) as bank:
        with_adapters(bank, paths)
        steps = bank.stream(asked, NAMES, stop_token_ids=None, tokens=4)
        steps = list(steps)
        assert len(steps) == 6  # from the shortest prompt, 3 tokens, to 24
        for row, size in enumerate(SIZES):
            got = np.concatenate([step[row] for step in steps])
            np.testing.assert_array_equal(got, want["token_ids"][row, size:])
        if not TORCH:
            calls = calls_of(task.backbone.transformer_layers[0])
            list(bank.stream(asked, NAMES, stop_token_ids=None, tokens=5))
            assert not calls
            del task.backbone.transformer_layers[0].__dict__["call"]


def test_a_stream_ends_where_its_rows_end(gpt):
    task, paths, asked, free = gpt
    stop = tuple(
        {int(free["token_ids"][row, 13 + row % 8]) for row in range(3)}
    )
    want = alone(task, asked, paths, NAMES, stop=stop)
    with served(task) as bank:
        with_adapters(bank, paths)
        steps = list(bank.stream(asked, NAMES, stop_token_ids=stop, tokens=3))
    for row, size in enumerate(SIZES):
        got = np.concatenate([step[row] for step in steps])
        end = int(want["padding_mask"][row].sum())
        np.testing.assert_array_equal(got, want["token_ids"][row, size:end])


def test_a_stream_goes_on_with_what_it_began_with(gpt):
    task, paths, asked, want = gpt
    with served(task, capacity=1) as bank:
        with_adapters(bank, paths)
        stream = bank.stream(asked, "a", stop_token_ids=None, tokens=8)
        steps = [next(stream)]
        bank.load("a", paths["b"])
        bank.predict(asked, adapter="c")
        steps += stream
        for row in (0, 5):
            got = np.concatenate([step[row] for step in steps])
            np.testing.assert_array_equal(
                got, want["token_ids"][row, SIZES[row] :]
            )


def test_no_beam_search_is_streamed(gpt):
    task, _, asked, _ = gpt
    task.compile(sampler="beam")
    with served(task) as bank, pytest.raises(ValueError, match="beam"):
        bank.stream(asked, stop_token_ids=None)
    task.compile(sampler="greedy")


# Texts.


@pytest.fixture(scope="module")
def speaking(tmp_path_factory):
    """A model that takes texts, its adapters, and what each row is to say."""
    folder = tmp_path_factory.mktemp("speaking")
    letters = "abcdefghijklmnopqrstuvwxyz"
    symbols = [
        "!",
        "<|endoftext|>",
        "Ġ",
        *letters,
        *("Ġ" + one for one in letters),
    ]
    preprocessor = keras_hub.models.GPT2CausalLMPreprocessor(
        keras_hub.models.GPT2Tokenizer(
            vocabulary={one: number for number, one in enumerate(symbols)},
            merges=[f"Ġ {one}" for one in letters],
        ),
        sequence_length=LENGTH,
    )
    task = positioned(
        "GPT2Backbone",
        "GPT2CausalLM",
        preprocessor,
        vocabulary_size=len(symbols),
    )
    set_random(task.weights, seed=1, size=0.3)
    task.compile(sampler="greedy")
    texts = ["a b c", "the cat", "x", "some more words here"] * 2
    paths = {
        name: write(
            task, folder / name, keras_lora.LoRAConfig(rank=3), seed=seed
        )
        for seed, name in enumerate("abc", 1)
    }
    want = {}
    for length in (None, 20):
        for strip in (False, True):
            want[length, strip] = [None] * 8
            for name in {*NAMES}:
                if name is not None:
                    keras_lora.load_adapter(task, paths[name])
                    task.compile(sampler="greedy")
                for row, its in enumerate(NAMES):
                    if its == name:
                        want[length, strip][row] = task.generate(
                            texts[row], max_length=length, strip_prompt=strip
                        )
                if name is not None:
                    keras_lora.eject(task)
                    task.compile(sampler="greedy")
    return task, paths, texts, want


@pytest.mark.slow
@pytest.mark.parametrize("length", [None, 20])
@pytest.mark.parametrize("strip", [False, True])
def test_texts_in_and_out(length, strip, speaking):
    task, paths, texts, want = speaking
    options = {"max_length": length, "strip_prompt": strip}
    assert len(set(want[length, strip])) > 4
    with served(task) as bank:
        with_adapters(bank, paths)
        got = bank.generate(texts, NAMES, **options)
        assert got == want[length, strip]
        got = bank.generate(texts[1], "b", **options)
        assert got == want[length, strip][1]
        got = bank.generate(np.array(texts), NAMES, **options)
        assert got == want[length, strip]
        assert bank.generate([], **options) == []


def test_a_stream_of_text(speaking):
    task, paths, texts, want = speaking
    with served(task) as bank:
        with_adapters(bank, paths)
        steps = list(bank.stream(texts, NAMES, tokens=5))
        for row, text in enumerate(texts):
            said = text + "".join(step[row] for step in steps)
            assert said == want[None, False][row]


@pytest.mark.extra
def test_plain_predictions_and_generations_at_once(gpt):
    """On JAX a plain prediction empties the base's variables meanwhile."""
    task, paths, asked, want = gpt
    plain = task.predict(asked, verbose=0)
    with served(task) as bank:
        with_adapters(bank, paths)
        same(bank.generate(asked, NAMES, stop_token_ids=None), want)
        errors, done = [], threading.Event()

        def predicting():
            while not done.is_set():
                got = task.predict(asked, batch_size=2, verbose=0)
                if not np.allclose(got, plain, atol=1e-4):
                    errors.append("another prediction")

        thread = threading.Thread(target=predicting)
        thread.start()
        try:
            for _ in range(15):
                same(bank.generate(asked, NAMES, stop_token_ids=None), want)
        finally:
            done.set()
            thread.join()
        assert not errors


@pytest.mark.extra
def test_threads_that_generate_load_and_unload(gpt):
    """Each answer is the lone caller's, or says that the name is gone."""
    task, paths, asked, _ = gpt
    answers = {
        name: alone(task, asked, paths, [name] * 8) for name in [None, *paths]
    }
    seconds = float(os.environ.get("GENERATE_SECONDS", "5"))
    right, wrong, gone, changes = [], [], [], []

    def generating(seed):
        chance = random.Random(seed)
        while time.monotonic() < end:
            names = [chance.choice([None, *paths]) for _ in range(8)]
            try:
                got = bank.generate(asked, names, stop_token_ids=None)
            except ValueError as error:
                ok = "no adapter" in str(error)
                (gone if ok else wrong).append(str(error))
                continue
            for row, name in enumerate(names):
                ids = answers[name]["token_ids"][row]
                found = (got["token_ids"][row] == ids).all()
                (right if found else wrong).append(name)

    def changing(seed):
        chance = random.Random(seed)
        while time.monotonic() < end:
            name = chance.choice(list(paths))
            try:
                if chance.random() < 0.3:
                    bank.unload(name)
                bank.load(name, paths[name])
                changes.append(name)
            except ValueError as error:
                if "no adapter" not in str(error):
                    wrong.append(str(error))
            time.sleep(0.01)

    with served(task, capacity=2) as bank:
        with_adapters(bank, paths)
        bank.generate(asked, NAMES, stop_token_ids=None)
        end = time.monotonic() + seconds
        threads = [
            threading.Thread(target=generating, args=(seed,))
            for seed in range(6)
        ] + [threading.Thread(target=changing, args=(9 + n,)) for n in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print(f"{len(right)} right, {len(gone)} gone, {len(changes)} changes")
    assert right and changes and not wrong, wrong[:5]
