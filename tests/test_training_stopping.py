"""When a run validates, when it makes a checkpoint, and when it stops before its last step."""

from __future__ import annotations

import math

import pytest
import torch
from factories import assert_equal_weights, plan_for
from training_cases import run, told

from appliance.errors import TrainingError, TrainingStopped
from appliance.training.engine import TrainingOutcome


def test_the_network_to_judge_is_the_average_in_eval_mode(tiny_scenes) -> None:
    seen, states = [], []

    def validate(network, step: int) -> dict[str, float]:
        assert not any(module.training for module in network.modules())
        torch.rand(7)  # what a validation draws at random must not change the run
        seen.append((step, {k: v.clone() for k, v in network.state_dict().items()}))
        return {"map_50": step / 10, "coco_ap": 0.0}

    wishes = {"steps": 5, "ema_decay": 0.5, "validate_every_steps": 2}
    plan = plan_for(tiny_scenes, **wishes)
    validated, outcome = run(
        plan, tiny_scenes.images, validate=validate, on_checkpoint=states.append
    )
    assert outcome == TrainingOutcome(step=5, best_step=5, best_metric=0.5)
    # Each validation was the best so far, so that each has its checkpoint.
    assert [step for step, _ in seen] == [state.step for state in states] == [2, 4, 5]
    assert all(state.is_best for state in states)
    for (_, judged), state in zip(seen, states, strict=True):
        assert all(torch.equal(judged[name], value) for name, value in state.model_state.items())
    unwatched, _ = run(plan, tiny_scenes.images)
    assert_equal_weights(validated, unwatched)


def test_without_an_average_the_network_itself_is_judged_and_learns_on(tiny_scenes) -> None:
    modes = []
    plan = plan_for(tiny_scenes, steps=3, validate_every_steps=1)

    def validate(network, step: int) -> dict[str, float]:
        modes.append(network.training)
        return {"map_50": 0.0}

    validated, _ = run(
        plan, tiny_scenes.images, validate=validate, on_step=lambda r: modes.append("step")
    )
    assert modes == ["step", False] * 3
    assert validated.training
    assert_equal_weights(validated, run(plan, tiny_scenes.images)[0])


def test_patience_ends_a_run_that_gets_no_better(tiny_scenes) -> None:
    metrics = {1: 0.1, 2: 0.4, 3: math.nan, 4: 0.4, 5: 0.39, 6: 0.9}
    plan = plan_for(
        tiny_scenes, steps=9, validate_every_steps=1, patience=3, checkpoint_every_steps=0
    )
    states, validations = [], []
    ended, outcome = run(
        plan,
        tiny_scenes.images,
        validate=told(metrics),
        on_checkpoint=states.append,
        on_validation=lambda step, values: validations.append((step, values["map_50"])),
    )
    assert outcome == TrainingOutcome(step=5, stopped_early=True, best_step=2, best_metric=0.4)
    assert [state.step for state in states] == [1, 2, 5]
    assert [state.is_best for state in states] == [True, True, False]
    assert [step for step, _ in validations] == [1, 2, 3, 4, 5]
    # Asked to go on, it knows that it had ended.
    again, repeated = run(plan, tiny_scenes.images, checkpoint=states[-1], validate=told({}))
    assert (repeated.step, repeated.stopped_early) == (5, True)
    assert_equal_weights(ended, again)


def test_patience_goes_on_counting_after_a_resume(tiny_scenes) -> None:
    metrics = {1: 0.4, 2: 0.3, 3: 0.2, 4: 0.1}
    plan = plan_for(
        tiny_scenes, steps=9, validate_every_steps=1, patience=3, checkpoint_every_steps=1
    )
    states = []
    whole, outcome = run(
        plan, tiny_scenes.images, validate=told(metrics), on_checkpoint=states.append
    )
    assert outcome.step == 4
    resumed, again = run(plan, tiny_scenes.images, checkpoint=states[1], validate=told(metrics))
    assert again == outcome
    assert_equal_weights(whole, resumed)


def test_the_metric_that_decides_can_be_chosen_and_must_be_there(tiny_scenes) -> None:
    wishes = {"steps": 2, "validate_every_steps": 1}
    plan = plan_for(tiny_scenes, **wishes, validation_metric="coco_ap")
    _, outcome = run(plan, tiny_scenes.images, validate=told({1: 0.3, 2: 0.4}))
    assert (outcome.best_step, outcome.best_metric) == (1, -0.3)
    with pytest.raises(TrainingError, match="got loss, expected map_50"):
        run(
            plan_for(tiny_scenes, **wishes),
            tiny_scenes.images,
            validate=lambda network, step: {"loss": 1.0},
        )


def test_validation_comes_after_the_last_step_where_no_interval_is_set(tiny_scenes) -> None:
    _, outcome = run(plan_for(tiny_scenes, steps=2), tiny_scenes.images, validate=told({2: 0.25}))
    assert outcome == TrainingOutcome(step=2, best_step=2, best_metric=0.25)


def test_a_run_that_is_asked_to_stop_leaves_a_checkpoint_to_go_on_with(tiny_scenes) -> None:
    plan = plan_for(tiny_scenes, steps=4, checkpoint_every_steps=0, ema_decay=0.9)
    states, steps = [], []
    with pytest.raises(TrainingStopped, match="after step 2 of 4") as stopped:
        run(
            plan,
            tiny_scenes.images,
            on_step=lambda report: steps.append(report.step),
            on_checkpoint=states.append,
            stop_requested=lambda: len(steps) == 2,
        )
    assert stopped.value.step == 2
    assert [state.step for state in states] == [2]
    resumed, outcome = run(plan, tiny_scenes.images, checkpoint=states[0])
    assert outcome.step == 4
    assert_equal_weights(resumed, run(plan, tiny_scenes.images)[0])


def test_a_stop_at_the_last_step_is_an_end(tiny_scenes) -> None:
    _, outcome = run(
        plan_for(tiny_scenes, steps=1), tiny_scenes.images, stop_requested=lambda: True
    )
    assert outcome == TrainingOutcome(step=1)
