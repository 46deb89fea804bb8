"""What a run costs, told beforehand: the count is what then trains."""

import pytest

import keras_lora
from app.learn import estimate
from app.learn.estimate import Pace, Speeds, measured_speeds
from app.learn.training import Settings, adapted_model
from tests.app.tiny import WIDTH, tiny_base


@pytest.mark.parametrize(
    "settings",
    [
        Settings(rank=3),
        Settings(rank=8, targets=["query", "value"]),
        Settings(targets=["attention_output", "feedforward_output_dense"]),
        Settings(method="bottleneck", bottleneck=7),
        Settings(method="side", width=32),
    ],
)
def test_the_count_is_what_then_trains(tiny_service, settings):
    told = estimate.trainable_parameters(
        tiny_service.low_rank,
        tiny_service.bottlenecks,
        tiny_service.ladders,
        WIDTH,
        3,
        settings,
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
        speeds = Speeds.guessed(1e-4, 2.0)
        return estimate.training_seconds(speeds, 20, train, 100, epochs)

    assert seconds(100, 1) < seconds(200, 1) < seconds(200, 2)


def test_a_ladder_is_told_to_take_less_than_lora():
    guessed = Speeds.guessed(1e-4, 2.0)
    told = [
        estimate.training_seconds(guessed.of(method), 20, 1000, 100, 2)
        for method in ("side", "bottleneck", "lora")
    ]
    assert told == sorted(set(told))
    assert guessed.of("lora") == guessed


def test_durations_are_short_words():
    assert estimate.duration(0.2) == "1 s"
    assert estimate.duration(40.4) == "40 s"
    assert estimate.duration(200) == "3 min"


def test_what_is_left_is_told_from_warm_steps():
    pace = Pace(batches=10)
    assert pace.seconds_left(0, 20) is None
    pace.steps += [30.0, 2.0]  # the first one was traced
    assert pace.seconds_left(2, 20) is None
    pace.steps.append(2.0)
    # 17 steps, two validations like a step, and tracing the first of them.
    assert pace.seconds_left(3, 20) == pytest.approx(17 * 2 + 2 * 2 + 9)
    pace.steps += [2.0] * 7
    pace.validations.append(12.0)
    pace.steps += [6.0] + [2.0] * 8  # another length was traced
    pace.validations.append(3.0)
    assert pace.seconds_left(19, 20) == pytest.approx(2 + 3)


def test_the_next_run_is_told_from_the_last_one():
    guessed = Speeds.guessed(1e-4, 2.0)
    pace = Pace([30.0] + [2.0] * 19, [12.0, 3.0], 10)
    found = measured_speeds(
        guessed, pace, 100.0, tokens=20, texts=32, train=320, held_out=100
    )
    assert found.step == pytest.approx(2.0 / (20 * 32))
    # 20 steps of 2 s, two validations of 3 s, baselines and the test; the
    # rest is tracing.
    beside = estimate.passes_beside(320, 100) * found.forward * 20
    assert 0 < beside < 54
    assert found.fixed == pytest.approx(100 - 40 - 6 - beside)
    told = estimate.training_seconds(found, 20, 320, 100, 2)
    assert told == pytest.approx(100, rel=0.1)
    more = estimate.training_seconds(found, 20, 3200, 100, 2)
    assert more == pytest.approx(100 + 9 * (40 + beside), rel=0.1)
    short = measured_speeds(guessed, Pace([30.0]), 40.0, 20, 32, 32, 10)
    assert short == guessed
