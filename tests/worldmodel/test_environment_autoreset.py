"""How episodes end and begin anew, measured by gymnasium's own vector environment."""

import re

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from imagined_environments import commands, imagined, never, play, shared_model, success_at

from worldmodel.environment import ImaginedVectorEnv
from worldmodel.single_environment import ImaginedEnv

NUM_ENVS = 3


def assert_same(ours, theirs, where):
    """Equal up to float32's rounding, in the same structure."""
    if isinstance(theirs, dict):
        assert set(ours) == set(theirs), where
        for name in theirs:
            assert_same(ours[name], theirs[name], f"{where}: {name}")
    elif isinstance(theirs, tuple) or (isinstance(theirs, np.ndarray) and theirs.dtype == object):
        assert type(ours) is type(theirs), where
        for own, other in zip(ours, theirs, strict=True):
            assert_same(own, other, where)
    elif theirs is None:
        assert ours is None, where
    else:
        assert getattr(ours, "shape", None) == getattr(theirs, "shape", None), where
        level = np.asarray(theirs).dtype == np.uint8  # rounding may fall to the other side
        np.testing.assert_allclose(
            np.asarray(ours, float), theirs, rtol=1e-4, atol=1 if level else 1e-4, err_msg=where
        )


def said(info):
    """What is told of at least one environment: gymnasium leaves out what it tells of none."""
    told = {}
    for name, value in info.items():
        if not name.startswith("_") and info[f"_{name}"].any():
            told[name] = said(value) if isinstance(value, dict) else value
            told[f"_{name}"] = info[f"_{name}"]
    return told


@pytest.mark.parametrize(
    "options",
    [
        {"horizon": 6, "reward": never},
        {"horizon": 9, "reward": "success"},
        {"horizon": 9, "reward": "dense", "terminate_on_success": False, "state": True},
        {"horizon": 9, "reward": "success", "chunk": 2, "obs_type": "pixels", "state": True},
        {"horizon": 10, "reward": "dense", "chunk": 4},
    ],
)
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_does_what_the_vector_environment_of_gymnasium_does(mode, options):
    """Step by step: observations, rewards, both ends, every key and every mask of `info`."""
    model = shared_model()
    ours = ImaginedVectorEnv(model, NUM_ENVS, autoreset_mode=mode, **options)
    makers = [lambda: ImaginedEnv(model, **options)] * NUM_ENVS
    theirs = SyncVectorEnv(makers, autoreset_mode=mode)
    assert ours.single_observation_space == theirs.single_observation_space
    assert ours.action_space == theirs.action_space
    assert_same(ours.reset(seed=3), theirs.reset(seed=3), "reset")
    ends = {"terminated": 0, "truncated": 0}
    for step, action in enumerate(commands(ours, 20)):
        told = ours.step(action)
        names = ("observations", "reward", "terminated", "truncated")
        expected = theirs.step(action)
        for name, own, other in zip(names, told[:-1], expected[:-1], strict=True):
            assert_same(own, other, f"step {step}: {name}")
        assert_same(said(told[-1]), expected[-1], f"step {step}: info")
        ends["terminated"] += told[2].sum()
        ends["truncated"] += told[3].sum()
        over = told[2] | told[3]
        if mode == AutoresetMode.DISABLED and over.any():
            # gymnasium's pops the mask out of the options
            again = [env.reset(options={"reset_mask": over.copy()}) for env in (ours, theirs)]
            assert_same(again[0][0], again[1][0], f"step {step}: reset")
            assert_same(said(again[0][1]), again[1][1], f"step {step}: reset's info")
    assert ends["truncated"] > 0
    if options["reward"] != never and options.get("terminate_on_success", True):
        assert ends["terminated"] > 2
    else:
        assert ends["terminated"] == 0


def test_gymnasium_can_make_the_batch_of_single_environments_itself():
    envs = gymnasium.make_vec(
        "worldmodel:worldmodel/Imagined-v0",
        num_envs=2,
        vectorization_mode="sync",
        checkpoint=shared_model(),
        horizon=3,
    )
    envs.reset(seed=0)
    info = envs.step(envs.action_space.sample())[-1]
    assert info["success"].dtype == np.bool_
    assert info["elapsed_steps"].tolist() == [1, 1]
    assert info["uncertainty"].dtype == np.float64


def test_the_horizon_truncates_and_a_success_in_its_step_terminates():
    envs = imagined(3, reward=success_at(0, 4, 5), horizon=4, autoreset_mode="disabled")
    envs.reset(seed=0)
    moments = play(envs, commands(envs, 4))
    assert [moment.over.tolist() for moment in moments[:3]] == [[False] * 3] * 3
    assert moments[3].terminated.tolist() == [False, True, False]
    assert moments[3].truncated.tolist() == [True, False, True]
    assert moments[3].info["success"].tolist() == [False, True, False]


def test_a_success_need_not_be_an_end():
    envs = imagined(2, reward=success_at(2, 4), horizon=4, terminate_on_success=False)
    envs.reset(seed=0)
    moments = play(envs, commands(envs, 4))
    success = [moment.info["success"].tolist() for moment in moments]
    assert success == [[False, False], [True, False], [False, False], [False, True]]
    assert not any(moment.terminated.any() for moment in moments)
    assert moments[3].truncated.tolist() == [True, True]


@pytest.mark.parametrize("mode", ["same_step", "next_step", "disabled"])
def test_an_end_within_a_chunk(mode):
    """Chunk 4, horizon 6: rows succeed in frame 2, in frame 6 (the horizon's), never."""
    options = {"chunk": 4, "horizon": 6, "reward": success_at(2, 6, 0), "state": True}
    envs = imagined(3, autoreset_mode=mode, **options)
    frames = imagined(3, chunk=4, obs_type="latents", reward=_record(kept := []))
    envs.reset(seed=0)
    frames.reset(seed=0)
    actions = commands(envs, 2)
    play(frames, actions)  # the same imagination, without any end
    first, second = play(envs, actions) if mode != "disabled" else [*play(envs, actions[:1]), None]
    assert first.reward.tolist() == [1 + 2, 1 + 2 + 3 + 4, 1 + 2 + 3 + 4]
    assert first.terminated.tolist() == [True, False, False]
    assert not first.truncated.any()
    info, seen = first.info, first.observations
    ended = info["final_obs"][0] if mode == "same_step" else {k: v[0] for k, v in seen.items()}
    np.testing.assert_array_equal(ended["latents"], kept[0].frames[0, 1])
    np.testing.assert_allclose(ended["state"], kept[0].robot[0, 1], rtol=1e-6)
    np.testing.assert_array_equal(seen["latents"][1:], kept[0].frames[1:, 3])
    if mode == "same_step":
        assert info["final_info"]["elapsed_steps"].tolist() == [2, 0, 0]
        assert info["_elapsed_steps"].tolist() == [False, True, True]
    else:
        assert info["elapsed_steps"].tolist() == [2, 4, 4]
        uncertain = [kept[0].outputs.error[0, :2].max(), *kept[0].outputs.error[1:].amax(1)]
        np.testing.assert_allclose(info["uncertainty"], uncertain, rtol=1e-6)
    if mode == "next_step":
        assert second.reward.tolist() == [0, 5 + 6, 5 + 6]
        assert second.terminated.tolist() == [False, True, False]
        assert second.truncated.tolist() == [False, False, True]
        assert second.info["elapsed_steps"].tolist() == [0, 6, 6]
        np.testing.assert_array_equal(second.observations["latents"][1:], kept[1].frames[1:, 1])


def _record(steps):
    def reward(step):
        steps.append(step)
        return never(step)

    return reward


def test_nothing_goes_on_before_the_first_reset_or_behind_an_end():
    envs = imagined(3, reward=success_at(0, 1, 0), autoreset_mode="disabled")
    action = commands(envs, 1)[0]
    for attempt in (envs.step, lambda _: envs.get_state(), lambda _: envs.observe()):
        with pytest.raises(ResetNeeded, match="call reset before anything else"):
            attempt(action)
    with pytest.raises(ResetNeeded, match="the first reset must be one of all environments"):
        envs.reset(options={"reset_mask": np.array([True, False, False])})
    envs.reset(seed=0)
    envs.step(action)
    message = "the episodes of environments [1] are over. Reset them with options={'reset_mask'"
    with pytest.raises(ResetNeeded, match=re.escape(message)):
        envs.step(action)
    assert envs.observe().shape == (3, 1, 4, 8, 8)
    envs.reset(options={"reset_mask": np.array([False, True, False])})
    assert envs.step(action)[-1]["elapsed_steps"].tolist() == [2, 1, 2]


@pytest.mark.parametrize(
    "mask", [np.zeros(3, bool), np.ones(2, bool), np.ones(3, int), np.ones((3, 1), bool)]
)
def test_a_reset_mask_that_does_not_fit(mask):
    envs = imagined(3)
    envs.reset(seed=0)
    with pytest.raises(ValueError, match=r"reset_mask must be bool \(3,\) with at least one True"):
        envs.reset(options={"reset_mask": mask})
