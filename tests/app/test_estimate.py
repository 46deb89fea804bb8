"""What a run costs, told beforehand: the count is what then trains."""

import pytest

import keras_lora
from app.learn import estimate
from app.learn.training import Settings, adapted_model
from tests.app.tiny import WIDTH, tiny_base


@pytest.mark.parametrize(
    "settings",
    [
        Settings(rank=3),
        Settings(rank=8, targets=["query", "value"]),
        Settings(targets=["attention_output", "feedforward_output_dense"]),
        Settings(method="bottleneck", bottleneck=7),
    ],
)
def test_the_count_is_what_then_trains(tiny_service, settings):
    told = estimate.trainable_parameters(
        tiny_service.low_rank, tiny_service.bottlenecks, WIDTH, 3, settings
    )
    model = adapted_model(tiny_base(), 3, settings)
    assert told == keras_lora.summary(model).trainable


def test_groups_are_the_names_one_can_target(tiny_service):
    groups = estimate.target_groups(tiny_service.low_rank)
    assert {"query", "value", "feedforward_output_dense"} <= set(groups)
    found = keras_lora.find_targets(tiny_base(), groups)
    assert set(found) == set(tiny_service.low_rank)


def test_more_texts_or_epochs_take_longer():
    def seconds(train, epochs):
        return estimate.training_seconds(1e-4, 20, train, 100, epochs)

    assert seconds(100, 1) < seconds(200, 1) < seconds(200, 2)


def test_durations_are_short_words():
    assert estimate.duration(0.2) == "1 s"
    assert estimate.duration(40.4) == "40 s"
    assert estimate.duration(200) == "3 min"
