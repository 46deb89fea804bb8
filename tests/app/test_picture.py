"""The picture of an adapter, and the checks on a copy of the base."""

import numpy as np

import keras_lora
from app.serve import proofs
from app.serve.guests import Shelf
from app.views import picture
from tests.app.tiny import adapter, tiny_base

TEXTS = ["one text", "and another one"]


def test_a_norm_is_that_of_the_full_update(tmp_path, tiny_service):
    config = keras_lora.LoRAConfig(rank=3, alpha=6, targets=["query"])
    path = adapter(tmp_path / "a.safetensors", config=config)
    base = tiny_base()
    before = {v.path: np.array(v) for v in base.weights}
    keras_lora.load_adapter(base, path, head=False)
    keras_lora.merge(base)
    moved = [
        float(np.linalg.norm(np.array(v) - before[v.path]))
        for v in base.weights
        if "query/kernel" in v.path
    ]
    info = keras_lora.inspect_adapter(path)
    found = picture.cells(info, path, list(tiny_service.low_rank))
    norms = [cell.norm for cell in found if cell.norm is not None]
    np.testing.assert_allclose(norms, moved, rtol=1e-4)
    assert len(found) == len(tiny_service.low_rank)
    assert {cell.layer for cell in found if cell.norm} == {"query"}
    assert {cell.size for cell in found} == {"", "rank 3"}


def test_bottlenecks_have_a_norm_and_a_width(tmp_path, tiny_service):
    config = keras_lora.AdapterConfig(bottleneck=5)
    path = adapter(tmp_path / "a.safetensors", config=config)
    info = keras_lora.inspect_adapter(path)
    found = picture.cells(info, path, list(tiny_service.low_rank))
    sitting = [cell for cell in found if cell.norm]
    assert [cell.block for cell in sitting] == list(
        dict.fromkeys(cell.block for cell in found)
    )
    assert {cell.size for cell in sitting} == {"width 5"}


def test_off_is_the_base_and_merged_is_the_adapter(tiny_service):
    proof = proofs.prove(tiny_service, tiny_service.shipped.tasks[0], TEXTS)
    assert proof.moved > 1e-2
    assert proof.off == proof.restored == 0
    assert 0 < proof.merged < 1e-4


def test_a_bottleneck_is_checked_as_far_as_it_goes(tiny_service, tmp_path):
    config = keras_lora.AdapterConfig(bottleneck=5)
    path = adapter(tmp_path / "a.safetensors", config=config)
    shelf = Shelf(tiny_service)
    served = shelf.add(path.read_bytes(), "b.safetensors")
    proof = proofs.prove(tiny_service, served, TEXTS)
    assert proof.merged is None and proof.off == 0 and proof.moved > 0
    shelf.close()


def test_a_convolution_s_kernels_have_a_norm_too():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((3, 4, 2)), rng.standard_normal((2, 5))
    full = np.tensordot(a, b, 1)
    found = picture.low_rank_norm(a, b)
    np.testing.assert_allclose(found, np.linalg.norm(full))
