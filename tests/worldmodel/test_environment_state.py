"""Environments forked mid-episode: exactly, in any number, anywhere."""

import re

import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from imagined_environments import commands, imagined, never, play, shared_model, success_at

from worldmodel.environment import ImaginedVectorEnv
from worldmodel.rows import take
from worldmodel.single_environment import ImaginedEnv


def idm(latents):
    """An inverse dynamics model that says something of every pair of frames."""
    return latents.mean((2, 4, 5)).diff(dim=1)[..., :2]


def same_bits(one, other) -> bool:
    """Whether two values are exactly equal, whatever they consist of."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_bits(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple) or (isinstance(one, np.ndarray) and one.dtype == object):
        return len(one) == len(other) and all(map(same_bits, one, other))
    return np.array_equal(one, other)


def environment(**options):
    """With all that there is to remember: robot state, an IDM, rewards and ends."""
    options = {"state": True, "idm": idm, "reward": "success", "horizon": 9, **options}
    return imagined(4, shared_model(history_blocks=2, past_actions=2), **options)


@pytest.mark.parametrize("mode", ["next_step", "same_step"])
@pytest.mark.parametrize("chunk", [1, 4])
def test_goes_on_exactly_from_where_it_stood(mode, chunk):
    """Through the ends and resets behind the fork, too."""
    envs = environment(autoreset_mode=mode, chunk=chunk)
    envs.reset(seed=0)
    actions = commands(envs, 18)
    play(envs, actions[:6])
    state = envs.get_state()
    once = play(envs, actions[6:])
    assert any(moment.over.any() for moment in once)
    envs.set_state(state)
    assert same_bits(play(envs, actions[6:]), once)
    elsewhere = environment(autoreset_mode=mode, chunk=chunk)
    elsewhere.set_state(state)  # no reset needed
    assert same_bits(play(elsewhere, actions[6:]), once)
    elsewhere.reset(seed=5)
    play(elsewhere, actions[:3])
    elsewhere.set_state(state)
    assert same_bits(play(elsewhere, actions[6:]), once)


def test_a_pending_reset_is_part_of_the_state():
    envs = imagined(2, reward=success_at(3, 0), autoreset_mode="next_step")
    envs.reset(seed=0)
    actions = commands(envs, 5)
    assert play(envs, actions[:3])[-1].terminated.tolist() == [True, False]
    state = envs.get_state()
    for _ in range(2):
        observations, reward, _, _, info = envs.step(actions[3])
        assert reward.tolist() == [0, 4]
        assert info["_context"].tolist() == [True, False]
        assert info["_elapsed_steps"].tolist() == [False, True]
        fresh = observations[0]
        envs.set_state(state)
    envs.reset(seed=0)
    envs.reset(options={"reset_mask": np.array([True, False])})
    assert np.array_equal(envs.observe()[0], fresh)  # the next episode of the same seed


def test_one_is_forked_into_all():
    envs = environment(chunk=1)
    envs.reset(seed=0)
    actions = commands(envs, 10)
    play(envs, actions[:5])
    before = envs.observe()
    envs.set_state(envs.get_state([2] * 4))
    for row in envs.observe()["latents"]:
        assert np.array_equal(row, before["latents"][2])
    same = np.repeat(actions[5:, 2:3], 4, axis=1)
    for moment in play(envs, same):
        latents = moment.observations["latents"]
        np.testing.assert_allclose(latents, latents[[2] * 4], atol=1e-5)
    envs.set_state(envs.get_state([1] * 4))
    apart = play(envs, actions[:1])[0].observations["latents"]
    assert np.abs(apart[1:] - apart[:1]).max(axis=(1, 2, 3, 4)).min() > 1e-3


def test_some_are_set_and_the_others_left_alone():
    envs = environment(chunk=1, reward=never)
    envs.reset(seed=0)
    actions = commands(envs, 8)
    play(envs, actions[:3])
    saved = envs.get_state([3, 0])
    play(envs, actions[3:4])
    before, after = envs.get_state(), envs.observe()
    envs.set_state(saved, [1, 2])
    kept = envs.get_state()
    assert before.imagined.frame[[0, 3]].equal(kept.imagined.frame[[0, 3]])
    assert before.imagined.elapsed.tolist() == [4] * 4
    assert kept.imagined.elapsed.tolist() == [4, 3, 3, 4]
    assert np.array_equal(envs.observe()["latents"][[0, 3]], after["latents"][[0, 3]])
    assert kept.imagined.frame[[1, 2]].equal(saved.imagined.frame)
    assert kept.seed.tolist() == [0, 3, 0, 3]


@pytest.mark.parametrize(
    ("its", "own", "says"),
    [
        ({"history_blocks": 2}, {}, "rollout.past"),
        ({}, {"history_blocks": 2}, "rollout.past"),
        ({"told": False}, {}, "rollout.robot is (2,) there"),
    ],
)
def test_a_state_of_another_network_is_refused(its, own, says):
    envs, others = imagined(2, shared_model(**own)), imagined(2, shared_model(**its))
    envs.reset(seed=0)
    others.reset(seed=0)
    with pytest.raises(ValueError, match=re.escape(says)):
        envs.set_state(others.get_state())
    play(envs, commands(envs, 5))  # goes on as if nothing had been tried


def test_a_refused_reset_changes_no_weights():
    envs = imagined(2)
    weights = np.arange(1.0, len(envs.context_tasks) + 1)
    with pytest.raises(ValueError, match="unknown options"):
        envs.reset(seed=0, options={"context_weights": weights, "contxt": 1})
    assert envs.starts.probabilities is None
    envs.reset(seed=0, options={"context_weights": weights})
    assert envs.starts.probabilities is not None


def test_a_state_is_a_copy():
    envs = environment(chunk=1)
    envs.reset(seed=0)
    state = envs.get_state()
    copied = take(state, torch.arange(4))
    envs.set_state(state)
    play(envs, commands(envs, 5))
    assert state.imagined.frame.equal(copied.imagined.frame)
    assert state.imagined.elapsed.tolist() == [0] * 4
    assert state.recent.frames.equal(copied.recent.frames)


def test_what_was_returned_belongs_to_the_user():
    """Who writes into it changes nothing of what is to come."""
    careful, careless = environment(chunk=1), environment(chunk=1)
    careful.reset(seed=0)
    observations, info = careless.reset(seed=0)
    actions = commands(careful, 12)
    for action in actions:
        for values in (*observations.values(), *info.values()):
            values[:] = 0
        expected = careful.step(action)
        taken = action.copy()
        observations, reward, terminated, truncated, info = careless.step(taken)
        assert same_bits((observations, reward, terminated, truncated, info), expected)
        taken[:] = terminated[:] = truncated[:] = 0


def test_a_single_environment_forks_into_a_batch_and_back():
    env = ImaginedEnv(shared_model(), reward=never)
    env.reset(seed=3)
    actions = commands(env, 4)
    play(env, actions[:2])
    state = env.get_state()
    expected = [env.step(action)[0] for action in actions[2:]]
    env.set_state(state)
    again = [env.step(action)[0] for action in actions[2:]]
    assert np.array_equal(expected, again)
    envs = ImaginedVectorEnv(shared_model(), 3, reward=never)
    envs.set_state(take(state, torch.tensor([0, 0, 0])))
    for action, frame in zip(actions[2:], expected, strict=True):
        observations = envs.step(np.repeat(action[None], 3, axis=0))[0]
        np.testing.assert_allclose(observations, np.repeat(frame[None], 3, axis=0), atol=1e-5)


def test_states_that_do_not_fit_are_named():
    envs = imagined(3)
    with pytest.raises(ResetNeeded, match="call reset before anything else"):
        envs.get_state()
    envs.reset(seed=0)
    state = envs.get_state([0, 1])
    for indices, named in ((None, "[0, 1, 2]"), ([2], "[2]"), ([2, 2], "[2, 2]")):
        message = f"2 rows of state for the environments {named}"
        with pytest.raises(ValueError, match=re.escape(message)):
            envs.set_state(state, indices)
    for attempt in (lambda: envs.get_state([3]), lambda: envs.set_state(state, [0, 3])):
        with pytest.raises(IndexError, match="index 3 is out of bounds"):
            attempt()
    with pytest.raises(ResetNeeded, match="call reset before setting the state of some"):
        imagined(3).set_state(state, [0, 1])
    for options, named in (
        ({"chunk": 4}, "chunk=4 and no idm"),
        ({"idm": idm}, "chunk=1 and an idm"),
    ):
        message = f"this state is of an env with chunk=1 and no idm, but this one has {named}"
        with pytest.raises(ValueError, match=re.escape(message)):
            imagined(2, **options).set_state(state)
    message = "this state has frames (1, 4, 8, 8), but those of this world model are (2, 4, 8, 8)"
    with pytest.raises(ValueError, match=re.escape(message)):
        imagined(2, shared_model(views=2)).set_state(state)


def test_environments_are_chosen_by_number_or_by_mask():
    envs = imagined(4)
    envs.reset(seed=10)
    every = envs.get_state().imagined.frame
    mask = np.array([False, True, False, True])
    for indices in ([1, 3], np.array([1, 3]), [-3, -1], mask):
        assert envs.get_state(indices).seed.tolist() == [11, 13]
        envs.reset(seed=20)
        envs.set_state(envs.get_state([0, 2]), indices)
        assert envs.get_state().seed.tolist() == [20, 20, 22, 22]
        envs.reset(seed=10)
    assert envs.get_state().imagined.frame.equal(every)
