"""The imagination below the environment: chunks, steps, memory, precision, and what is decoded."""

import math

import numpy as np
import pytest
import torch
from imagined_environments import commands, imagined, play, shared_model
from tiny_world_models import tiny_world_model

from worldmodel import counter_noise
from worldmodel.imagination import Imagination
from worldmodel.kinematics import at_rest, next_robot
from worldmodel.noise import GIVEN
from worldmodel.queries import forward_dynamics
from worldmodel.rollout import advance
from worldmodel.rollout_state import anchor_of, start
from worldmodel.sampler import euler
from worldmodel.world_model import WorldModel


def latents(env, actions: np.ndarray) -> np.ndarray:
    """Observed frames `(steps, N, V, C, h, w)` of an env that was just reset."""
    return np.stack([moment.observations for moment in play(env, actions)])


@pytest.mark.parametrize("history_blocks", [0, 2])
def test_the_last_frame_of_a_block_does_not_depend_on_the_chunk(history_blocks):
    model = shared_model(history_blocks=history_blocks)
    envs = {chunk: imagined(3, model, chunk=chunk) for chunk in (1, 2, 4)}
    actions = commands(envs[1], 12)
    frames = {}
    for chunk, env in envs.items():
        env.reset(seed=0)
        chunks = actions.reshape(12 // chunk, chunk, 3, 2).swapaxes(1, 2)
        frames[chunk] = latents(env, chunks.squeeze(2) if chunk == 1 else chunks)
    np.testing.assert_allclose(frames[1][3::4], frames[4], atol=1e-5)
    np.testing.assert_allclose(frames[2][1::2], frames[4], atol=1e-5)
    np.testing.assert_allclose(frames[1][1::2], frames[2], atol=1e-5)  # as many actions known


def recomputed(
    model: WorldModel,
    context: torch.Tensor,
    actions: torch.Tensor,
    seed: torch.Tensor,
    state: torch.Tensor,
) -> torch.Tensor:
    """The same frames without any cache: every block runs its whole past through the network."""
    network, size = model.network, model.network.block_frames
    known_all = torch.ones(len(context), size, dtype=torch.bool)
    robot = at_rest(state, network.robot_actions, 2)
    anchors, blocks, taken = [anchor_of(context[:, None])], [], []
    foretold, corrected, robots = [], [], []
    for index in range(actions.shape[1] // size):
        taken.append(actions[:, size * index : size * (index + 1)])
        robots.append(robot)
        foretold.append(network.predict_states(robot, taken[-1], known_all))
        shape = (size, *context.shape[1:])
        count = math.prod(shape)
        noise = counter_noise.normal(seed, torch.full_like(seed, index), count + 2 * size)

        def predict(noisy, time, index=index):
            times = torch.full((len(context), index + 1), GIVEN)
            times[:, -1] = time
            known = torch.full((len(context), index + 1, size), GIVEN)
            given = torch.stack(anchors, 1), torch.stack([*blocks, noisy[0]], 1)
            told = {"states": torch.stack(foretold, 1), "robot": torch.stack(robots, 1)}
            prediction = network(*given, torch.stack(taken, 1), times, known, **told)
            corrected.append(prediction.states[:, -1])
            return (prediction.latents[:, -1],)

        blocks.append(euler(predict, (noise[:, :count].unflatten(1, shape),), 1)[0])
        anchors.append(anchor_of(blocks[-1]))
        robot = next_robot(robot, corrected[-1], taken[-1], known_all)
    return torch.cat(blocks, 1)


@pytest.mark.parametrize("history_blocks", [0, 1, 2])
@pytest.mark.parametrize("chunk", [1, 4])
@pytest.mark.parametrize("past_actions", [0, 6])
def test_cache_on_and_off_agree(history_blocks, chunk, past_actions):
    """Behind a partial reset, too: row 1 begins anew after six actions, or two chunks."""
    model = shared_model(history_blocks=history_blocks, past_actions=past_actions)
    env = imagined(3, model, chunk=chunk)
    before = {1: 6, 4: 2}[chunk]
    first, _ = env.reset(seed=0)
    began = env.get_state().imagined
    context, seed = torch.from_numpy(first), began.rollout.seed
    actions = commands(env, 24 // chunk)
    frames = [latents(env, actions[:before])]
    fresh, _ = env.reset(options={"reset_mask": np.array([False, True, False])})
    again = env.get_state().imagined
    frames = np.concatenate([*frames, latents(env, actions[before:])])
    normalised = model.action_normalizer.normalize(torch.from_numpy(actions))
    given = normalised.reshape(24 // chunk, 3, chunk, 2).transpose(0, 1).flatten(1, 2)
    whole = recomputed(model, context, given, seed, began.robot)
    ends = slice(4 // chunk - 1, None, 4 // chunk)
    for row in (0, 2):
        np.testing.assert_allclose(
            frames[ends, row], whole[row, 3::4].numpy(), atol=1e-4, rtol=1e-4
        )
    done = before * chunk
    rest = (24 - done) // 4 * 4
    restarted = recomputed(
        model,
        torch.from_numpy(fresh)[1:2],
        given[1:2, done : done + rest],
        again.rollout.seed[1:2],
        again.robot[1:2],
    )
    shown = frames[before : before + rest // chunk][ends, 1]
    np.testing.assert_allclose(shown, restarted[0, 3::4].numpy(), atol=1e-4, rtol=1e-4)


def test_memory_matters_where_there_is_some():
    """Otherwise the test above would compare models that never look back."""
    model = shared_model(history_blocks=2)
    env = imagined(1, model, chunk=4)
    env.reset(seed=0)
    actions = commands(env, 3)
    play(env, actions[:2])
    state = env.get_state()
    remembered = env.step(actions[2])[0]
    for layer in state.imagined.rollout.past:
        layer.values.zero_()
    env.set_state(state)
    assert np.abs(env.step(actions[2])[0] - remembered).max() > 1e-3


def test_steps_are_those_of_the_sampler(monkeypatch):
    model = shared_model()
    calls = []
    handle = model.network.register_forward_hook(lambda *_: calls.append(1))
    try:
        frames = {}
        for steps in (1, 2, 8):
            calls.clear()
            env = imagined(2, model, chunk=4, steps=steps)
            env.reset(seed=0)
            frames[steps] = latents(env, commands(env, 2))
            assert len(calls) == 2 * steps
    finally:
        handle.remove()
    assert np.abs(frames[1] - frames[2]).max() > 1e-3
    assert np.abs(frames[2] - frames[8]).max() > 1e-3


@pytest.mark.parametrize("history_blocks", [0, 2])
def test_half_precision_is_near_the_full_one(history_blocks):
    model = shared_model(history_blocks=history_blocks)
    options = {"chunk": 4, "state": True, "reward": "dense", "terminate_on_success": False}
    half, full = imagined(8, model, dtype="bfloat16", **options), imagined(8, model, **options)
    actions = commands(full, 3)
    for env in (half, full):
        env.reset(seed=0)
    for one, other in zip(play(half, actions), play(full, actions), strict=True):
        for name in ("latents", "state"):
            assert one.observations[name].dtype == np.float32
        difference = one.observations["latents"] - other.observations["latents"]
        moved = np.std(other.observations["latents"])
        assert 0 < np.sqrt(np.square(difference).mean()) < 0.05 * moved
        assert np.corrcoef(one.reward, other.reward)[0, 1] > 0.9
    assert next(model.network.parameters()).dtype == torch.float32  # the user's own is left alone
    assert half.imagination.network.dtype == torch.bfloat16


def test_latents_are_never_decoded(monkeypatch):
    model = tiny_world_model()
    env = imagined(2, model, state=True, render_mode="rgb_array", horizon=3)

    def decode(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr(model.autoencoder, "decode", decode)
    env.reset(seed=0)
    play(env, commands(env, 6))
    env.set_state(env.get_state())
    with pytest.raises(AssertionError, match="decoded"):
        env.render()
    with pytest.raises(AssertionError, match="decoded"):
        imagined(2, model, obs_type="pixels").reset(seed=0)


@pytest.mark.parametrize("views", [1, 2])
def test_pixels_are_the_decoded_latents(views):
    model = shared_model(views=views)
    pixels, frames = imagined(2, model, obs_type="pixels", state=True), imagined(2, model)
    pixels.reset(seed=0)
    frames.reset(seed=0)
    actions = commands(frames, 3)
    for one, other in zip(play(pixels, actions), play(frames, actions), strict=True):
        decoded = model.decode(torch.from_numpy(other.observations))  # n v 3 h w
        decoded = decoded.permute(0, 1, 3, 4, 2).numpy()
        seen = one.observations["pixels"]
        assert seen.dtype == np.uint8
        assert np.array_equal(seen, decoded[:, 0] if views == 1 else decoded)
        assert one.observations["state"].shape == (2, 3)


def test_uncertainty_and_state_differ_from_frame_to_frame():
    env = imagined(4, state=True)
    env.reset(seed=0)
    moments = play(env, commands(env, 8))
    uncertainty = np.stack([moment.info["uncertainty"] for moment in moments])
    state = np.stack([moment.observations["state"] for moment in moments])
    assert (uncertainty > 0).all()
    assert len(np.unique(uncertainty)) == uncertainty.size
    assert len(np.unique(state)) == state.size


def test_each_frame_is_judged_at_its_own_place_in_the_block():
    """Step by step, frame t of a block gets what the heads say of frame t, not of another."""
    model = shared_model()
    imagination = Imagination(model, chunk=1)
    state = imagination.start(torch.zeros(2, 1, 1, 4, 8, 8), torch.tensor([1, 2]))
    features = []
    handle = model.network.register_forward_hook(lambda *args: features.append(args[2].features))
    try:
        for place in (0, 1, 2, 3, 0, 1):
            features.clear()
            step, state = imagination.step(state, torch.ones(2, 1, 2))
            said = model.heads(features[0][:, 0], (1, 4, 4))
            for own, other in zip(step.outputs, said, strict=True):
                torch.testing.assert_close(own[:, 0], other[:, place])
    finally:
        handle.remove()


def test_actions_still_to_come_are_absent_not_zero():
    """The frames of a block in which only the first two actions are known."""
    model = shared_model()
    imagination = Imagination(model, chunk=1)
    state = imagination.start(torch.zeros(2, 1, 1, 4, 8, 8), torch.tensor([1, 2]))
    actions = torch.tensor([[[0.3, 0.2], [-1.0, 0.9], [0.0, 0.0], [0.0, 0.0]]]).repeat(2, 1, 1)
    known = torch.tensor([[True, True, False, False]] * 2)
    given = (model.network, state.rollout.anchor, model.action_normalizer.normalize(actions))
    absent = forward_dynamics(*given, known, state.rollout.noise)
    zero = forward_dynamics(*given, known | True, state.rollout.noise)
    for number in range(2):
        step, state = imagination.step(state, actions[:, number : number + 1])
    torch.testing.assert_close(step.frames[:, 0], absent[:, 1])
    assert (absent[:, 1] - zero[:, 1]).abs().max() > 1e-3


@pytest.mark.parametrize("chunk", [1, 4])
def test_a_step_leads_to_the_last_frame_of_its_chunk(chunk):
    imagination = Imagination(shared_model(), chunk)
    state = imagination.start(torch.zeros(2, 1, 1, 4, 8, 8), torch.tensor([1, 2]))
    for number in range(3):
        step, following = imagination.step(state, torch.ones(2, chunk, 2))
        assert step.previous.equal(state.frame)
        assert step.elapsed.tolist() == [number * chunk] * 2
        assert step.outputs is not None
        assert following.frame.equal(step.frames[:, -1])
        assert following.robot.equal(step.robot[:, -1])
        assert following.elapsed.tolist() == [(number + 1) * chunk] * 2
        state = following


@pytest.mark.parametrize("told", [True, False])
def test_where_the_robots_state_comes_from(told):
    """A network that goes by states foretells it; if it cannot, or does not, the heads read it."""
    model = shared_model(told=told)
    frames, seeds = torch.zeros(2, 1, 1, 4, 8, 8), torch.tensor([1, 2])
    robot = torch.tensor([[0.1, 0.2, 0.3], [torch.nan] * 3])
    imagination, actions = Imagination(model, 4), torch.ones(2, 4, 2)
    started = imagination.start(frames, seeds, robot)
    assert started.robot[1].tolist() == [0, 0, 0]  # unknown
    step, _ = imagination.step(started, actions)
    assert step.outputs is not None
    assert step.robot[1].equal(step.outputs.state[1])
    assert step.robot[0].equal(step.outputs.state[0]) is not told
    if told:
        normal = model.action_normalizer.normalize(actions)
        begun = start(model.network, frames, seeds, state=robot)
        torch.testing.assert_close(step.robot[:1], advance(model.network, begun, normal).robot[:1])


def test_a_recorded_state_is_as_large_as_the_models():
    """That of another robot, or told to a model that knows none, says nothing."""
    known = torch.tensor([True, False])
    told, untold = shared_model(), shared_model(told=False, heads=False)
    assert told.normal_state(torch.zeros(2, 3), known).isnan().any(1).tolist() == [False, True]
    assert told.normal_state(torch.zeros(2, 7), known).isnan().all()
    assert untold.normal_state(torch.zeros(2, 3), known).shape == (2, 0)


def test_a_model_that_never_saw_an_action_cannot_be_acted_in():
    model = tiny_world_model()
    model.action_normalizer = None
    with pytest.raises(ValueError, match="trained without any actions, so it cannot be acted in"):
        imagined(1, model)
