"""Rewards and successes: of the heads, of a goal image, of the user's own."""

import re

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from imagined_environments import commands, imagined, play, shared_model
from tiny_world_models import tiny_world_model
from torch import nn

from video.errors import DatasetError
from worldmodel.heads import FrameOutputs
from worldmodel.imagination import ImaginedStep
from worldmodel.rewards import GoalImage, LearnedReward, LearnedSuccess, Verdict, reward_model


def step_of(
    frames: torch.Tensor | None = None, logits: torch.Tensor | None = None, **options
) -> ImaginedStep:
    """A chunk of two frames in each of two rows."""
    model = shared_model(**options)
    frames = torch.zeros(2, 2, len(model.cameras), 4, 8, 8) if frames is None else frames
    reward = torch.tensor([[0.5, -1.0], [2.0, 0.0]])
    logits = torch.zeros(2, 2) if logits is None else logits
    state = torch.zeros(2, 2, 3)
    return ImaginedStep(
        model=model,
        previous=frames[:, 0],
        frames=frames,
        actions=torch.zeros(2, 2, 2),
        elapsed=torch.zeros(2, dtype=torch.long),
        outputs=FrameOutputs(reward, logits + 1, logits, state, reward, reward),
        robot=state,
    )


LOGITS = torch.tensor([[-0.1, 0.1], [3.0, -3.0]])


def test_learned_success_is_the_classifiers_word():
    verdict = LearnedSuccess()(step_of(logits=LOGITS))
    assert verdict.reward.tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert verdict.success.tolist() == [[False, True], [True, False]]


def test_the_mean_is_believed_where_the_members_need_not_agree():
    """The mean's logits are higher by 1 here."""
    verdict = LearnedSuccess(unanimous=False)(step_of(logits=LOGITS))
    assert verdict.success.tolist() == [[True, True], [True, False]]
    verdict = LearnedReward(unanimous=False)(step_of(logits=LOGITS))
    assert verdict.success.tolist() == [[True, True], [True, False]]


def test_the_threshold_of_the_heads_is_used_where_no_other_is_given(monkeypatch):
    """The logit of 0.8 is 1.386."""
    step = step_of(logits=torch.tensor([[1.3, 1.4], [3.0, 0.1]]))
    monkeypatch.setitem(step.model.heads.config, "success_threshold", 0.8)
    assert LearnedSuccess()(step).success.tolist() == [[False, True], [True, False]]
    assert LearnedReward()(step).success.tolist() == [[False, True], [True, False]]
    assert LearnedSuccess(0.5)(step).success.tolist() == [[True, True], [True, True]]


def test_a_stricter_threshold_accepts_less():
    """The logit of 0.9 is 2.197."""
    logits = torch.tensor([[2.19, 2.2], [3.0, 0.1]])
    assert LearnedSuccess(0.9)(step_of(logits=logits)).success.tolist() == [
        [False, True],
        [True, False],
    ]
    assert LearnedReward(0.9)(step_of(logits=logits)).success.tolist() == [
        [False, True],
        [True, False],
    ]


def test_learned_reward_is_in_the_units_of_the_data():
    verdict = LearnedReward()(step_of(logits=LOGITS))
    assert verdict.reward.tolist() == [[0.5, -1.0], [2.0, 0.0]]
    assert verdict.success.tolist() == [[False, True], [True, False]]


@pytest.mark.parametrize(("name", "kind"), [("success", LearnedSuccess), ("dense", LearnedReward)])
def test_the_environment_pays_what_the_heads_say(name, kind):
    """Its rewards are those of the same heads, asked beside it."""
    said = []

    def overheard(step: ImaginedStep) -> Verdict:
        said.append(kind()(step))
        return said[-1]

    options = {"chunk": 2, "horizon": 6, "autoreset_mode": "same_step"}
    named, own = imagined(3, reward=name, **options), imagined(3, reward=overheard, **options)
    named.reset(seed=0)
    own.reset(seed=0)
    actions = commands(named, 9)
    for one, other, verdict in zip(play(named, actions), play(own, actions), said, strict=True):
        assert np.array_equal(one.reward, other.reward)
        assert np.array_equal(one.terminated, other.terminated)
        whole = ~verdict.success[:, 0].numpy()
        np.testing.assert_allclose(one.reward[whole], verdict.reward.sum(1)[whole], rtol=1e-5)
    rewards = np.array([verdict.reward.numpy() for verdict in said])
    assert len(np.unique(rewards)) > (1 if name == "success" else 40)


def picture(value: int) -> np.ndarray:
    return np.full((32, 32, 3), value, np.uint8)


def test_a_goal_image_by_literal_distance():
    """A frame that is off by 0.5 everywhere is 0.5 away."""
    model = shared_model()
    goal = model.encode(torch.from_numpy(picture(90)).permute(2, 0, 1)[None])[None, None]
    shift = torch.tensor([[0.0, 0.5], [-2.0, 0.1]])[..., None, None, None, None]
    step = step_of(goal.repeat(2, 2, 1, 1, 1, 1) + shift)
    verdict = GoalImage(picture(90), threshold=0.3)(step)
    torch.testing.assert_close(verdict.reward, torch.tensor([[0.0, -0.5], [-2.0, -0.1]]))
    assert verdict.success.tolist() == [[True, False], [False, True]]
    assert not GoalImage(picture(90))(step).success.any()


def test_a_goal_image_of_any_size_from_a_file(tmp_path):
    path = tmp_path / "goal.png"
    imageio.imwrite(path, np.full((64, 96, 4), 90, np.uint8))  # with transparency
    from_file, given = GoalImage(path), GoalImage(picture(90))
    torch.testing.assert_close(from_file(step_of()).reward, given(step_of()).reward)


@pytest.mark.parametrize(
    "goal", [picture(0)[..., 0], picture(0) / 255, picture(0)[..., :2], picture(0)[None, None]]
)
def test_a_goal_of_another_shape_is_refused(goal, shapes_unchecked):
    with pytest.raises(DatasetError, match=r"the goal is .*; give uint8 \(H, W, 3\), or"):
        GoalImage(goal)


def test_a_goal_of_other_cameras_is_refused():
    with pytest.raises(DatasetError, match="the goal shows 1 cameras, the world model has 2"):
        GoalImage(picture(0))(step_of(views=2))
    both = np.stack([picture(0), picture(9)])
    assert GoalImage(both)(step_of(views=2)).reward.shape == (2, 2)
    with pytest.raises(DatasetError, match="the goal shows 2 cameras, the world model has 1"):
        GoalImage(both)(step_of())


def test_a_network_of_ones_own_that_looks_at_pixels():
    """Not even one with parameters that want gradients needs `no_grad`."""
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(32 * 32 * 3, 1))

    def reward(step: ImaginedStep) -> Verdict:
        pixels = step.pixels().flatten(0, 2).float() / 255
        value = classifier(pixels).reshape(step.frames.shape[:2])
        return Verdict(value, value > 0)

    env = imagined(2, reward=reward, chunk=4)
    env.reset(seed=0)
    assert np.isfinite(env.step(commands(env, 1)[0])[1]).all()


def test_a_users_verdict_of_another_shape_is_refused(shapes_unchecked):
    def reward(step: ImaginedStep) -> Verdict:
        return Verdict(torch.zeros(len(step.frames)), torch.zeros(len(step.frames)).bool())

    env = imagined(3, reward=reward)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=re.escape("reward is torch.float32 (3,), expected float")):
        env.step(commands(env, 1)[0])


def test_names_that_do_not_exist_and_heads_that_never_learned():
    with pytest.raises(ValueError, match=r"reward='sparse': use one of \['dense', 'success'\], or"):
        imagined(1, reward="sparse")
    for choice in ("success", "dense", LearnedSuccess(0.9)):
        with pytest.raises(DatasetError, match=r"no heads to judge .*configs/reward\.yaml"):
            imagined(1, shared_model(heads=False), reward=choice)
    model = tiny_world_model()
    model.heads.register_to_config(has_reward=False)
    assert isinstance(reward_model("success", model), LearnedSuccess)
    with pytest.raises(DatasetError, match=r"what LearnedReward needs \(has_reward is false\)"):
        imagined(1, model, reward="dense")


def test_heads_that_know_no_success_end_no_episode():
    """What an untrained classifier says counts for nothing."""
    model = tiny_world_model()
    model.heads.register_to_config(has_success=False)
    env = imagined(4, model, reward="dense", horizon=20)
    env.reset(seed=0)
    moments = play(env, commands(env, 19))
    assert not any(moment.terminated.any() for moment in moments)
    assert not any(moment.info["success"].any() for moment in moments)
