"""What an imagined episode depends on, and what it does not."""

import numpy as np
import pytest
import torch
from imagined_environments import Moment, commands, imagined, never, play, shared_model
from tiny_world_models import tiny_world_model

from worldmodel.imagination import ImaginedStep
from worldmodel.rewards import Verdict


def seen(moments: list[Moment]) -> np.ndarray:
    return np.stack([moment.observations for moment in moments])


@pytest.mark.parametrize("chunk", [1, 4])
def test_the_latent_advances_every_step(chunk):
    envs = imagined(3, chunk=chunk)
    first, _ = envs.reset(seed=0)
    frames = np.concatenate((first[None], seen(play(envs, commands(envs, 9)))))
    moved = np.abs(np.diff(frames, axis=0)).max(axis=(2, 3, 4, 5))
    assert (moved > 1e-2).all()


@pytest.mark.parametrize("changed", [0, 2, 3, 4, 7])
def test_an_action_changes_the_next_frame_and_none_before(changed):
    envs = imagined(2)
    actions = commands(envs, 9)
    others = actions.copy()
    others[changed, 0] = actions[changed, 0] * [-1, 1]
    envs.reset(seed=0)
    before = seen(play(envs, actions))
    envs.reset(seed=0)
    after = seen(play(envs, others))
    assert np.array_equal(before[:changed], after[:changed])
    differs = np.abs(before[changed:, 0] - after[changed:, 0]).max(axis=(1, 2, 3, 4))
    assert (differs > 1e-4).all()
    assert np.array_equal(before[:, 1], after[:, 1])


def test_an_action_within_a_chunk_changes_that_chunk():
    envs = imagined(1, chunk=4)
    actions = commands(envs, 3)
    others = actions.copy()
    others[1, 0, 3] *= [-1, 1]
    envs.reset(seed=0)
    before = seen(play(envs, actions))
    envs.reset(seed=0)
    after = seen(play(envs, others))
    assert np.array_equal(before[0], after[0])
    assert np.abs(before[1:] - after[1:]).max(axis=(1, 2, 3, 4, 5)).min() > 1e-4


@pytest.mark.parametrize("chunk", [1, 2])
def test_reward_and_termination_belong_to_the_frame_that_they_come_with(chunk):
    """A reward that knows the frames of an earlier run by heart names the right one."""
    ahead = imagined(3, chunk=chunk, reward=_keep(frames := []))
    ahead.reset(seed=0)
    actions = commands(ahead, 5)
    play(ahead, actions)
    known = torch.cat(frames, dim=1)

    def recognise(step: ImaginedStep) -> Verdict:
        distance = (step.frames[:, :, None] - known[:, None]).square().mean((3, 4, 5, 6))
        number = distance.argmin(dim=2)
        assert distance.amin(dim=2).max() < 1e-6
        return Verdict(10.0**-number, number == 3 * chunk + chunk - 1)

    envs = imagined(3, chunk=chunk, reward=recognise, autoreset_mode="disabled")
    envs.reset(seed=0)
    moments = play(envs, actions[:4])
    expected = [sum(10.0 ** -(chunk * step + i) for i in range(chunk)) for step in range(4)]
    for step, moment in enumerate(moments):
        np.testing.assert_allclose(moment.reward, expected[step], rtol=1e-5)
        assert moment.terminated.tolist() == [step == 3] * 3
        assert np.array_equal(moment.observations, known[:, chunk * step + chunk - 1])


def _keep(frames: list):
    def reward(step: ImaginedStep) -> Verdict:
        frames.append(step.frames)
        return never(step)

    return reward


@pytest.mark.parametrize("history_blocks", [0, 2])
@pytest.mark.parametrize("chunk", [1, 4])
def test_resetting_one_leaves_every_bit_of_its_neighbours_alone(history_blocks, chunk):
    envs = imagined(4, shared_model(history_blocks=history_blocks), chunk=chunk, state=True)
    actions = commands(envs, 12)
    envs.reset(seed=0)
    untouched = play(envs, actions)
    envs.reset(seed=0)
    mask = np.array([False, True, False, True])
    moments = []
    for step, action in enumerate(actions):
        if step in (2, 5):
            observations, _ = envs.reset(options={"reset_mask": mask})
            same = np.equal(observations["latents"], moments[-1].observations["latents"])
            assert same.all(axis=(1, 2, 3, 4)).tolist() == [True, False, True, False]
        moments += play(envs, action[None])
    for one, other in zip(untouched, moments, strict=True):
        for name in ("latents", "state"):
            assert np.array_equal(one.observations[name][~mask], other.observations[name][~mask])
        assert np.array_equal(one.reward[~mask], other.reward[~mask])
        assert np.array_equal(one.info["uncertainty"][~mask], other.info["uncertainty"][~mask])
    assert not np.array_equal(
        untouched[-1].observations["latents"][mask], moments[-1].observations["latents"][mask]
    )


@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_neither_does_an_autoreset(mode):
    """The first row ends again and again; its neighbours never do."""

    def reward(step: ImaginedStep) -> Verdict:
        success = torch.zeros(step.frames.shape[:2], dtype=torch.bool)
        success[0] = step.elapsed[0] == 2
        return Verdict(success.float(), success)

    quiet, busy = imagined(3), imagined(3, reward=reward, autoreset_mode=mode)
    actions = commands(quiet, 11)
    quiet.reset(seed=0)
    busy.reset(seed=0)
    for one, other in zip(play(quiet, actions), play(busy, actions), strict=True):
        assert np.array_equal(one.observations[1:], other.observations[1:])
    assert not np.array_equal(one.observations[0], other.observations[0])


@pytest.mark.parametrize("history_blocks", [0, 2])
@pytest.mark.parametrize("chunk", [1, 4])
def test_a_seed_gives_its_trajectory_in_any_company(history_blocks, chunk):
    """At N = 1, 7 and 32, whenever the neighbours are reset; of the noise not a bit differs."""
    model, steps, seed = shared_model(history_blocks=history_blocks), 9, 100
    alone = imagined(1, model, chunk=chunk)
    frames = [alone.reset(seed=seed)[0][0]]
    actions = commands(alone, steps)[:, 0]
    noises = [alone.get_state().imagined.rollout.noise.latents[0]]
    for action in actions:
        frames.append(alone.step(action[None])[0][0])
        noises.append(alone.get_state().imagined.rollout.noise.latents[0])
    for num_envs, place in ((7, 3), (32, 31)):
        envs = imagined(num_envs, model, chunk=chunk)
        seeds = [seed if i == place else i for i in range(num_envs)]
        observations, _ = envs.reset(seed=seeds)
        company = commands(envs, steps, seed=num_envs)
        company[:, place] = actions
        for step in range(steps):
            np.testing.assert_allclose(observations[place], frames[step], atol=1e-5)
            noise = envs.get_state([place]).imagined.rollout.noise.latents[0]
            assert noise.equal(noises[step])
            mask = np.random.default_rng([step, num_envs]).random(num_envs) < 0.3
            mask[place], mask[0] = False, True
            envs.reset(options={"reset_mask": mask})
            observations = envs.step(company[step])[0]


def test_seeds_and_episodes_differ():
    envs = imagined(8)
    actions = commands(envs, 1)
    actions[:] = actions[:, :1]
    starts = []
    for seed in (0, 8, None, None):
        _, info = envs.reset(seed=seed)
        starts.append((info["context"], seen(play(envs, actions))[0]))
    # five contexts, yet every episode is another: its noise differs, too
    frames = np.concatenate([latents for _, latents in starts])
    assert len(np.unique(frames.round(4), axis=0)) == 32
    assert len({context for contexts, _ in starts for context in contexts.tolist()}) == 5


def test_a_seed_repeats_all_episodes_that_follow_it():
    envs = imagined(3, horizon=3)
    runs = []
    for _ in range(2):
        envs.reset(seed=[4, 9, 4])
        runs.append(play(envs, commands(envs, 12)))
    assert np.array_equal(seen(runs[0]), seen(runs[1]))
    assert runs[0][3].info["context"].tolist() == runs[1][3].info["context"].tolist()
    same = commands(envs, 12)
    same[:, 2] = same[:, 0]
    envs.reset(seed=[4, 9, 4])
    latents = seen(play(envs, same))
    np.testing.assert_allclose(latents[:, 0], latents[:, 2], atol=1e-5)
    assert np.abs(latents[:, 0] - latents[:, 1]).max() > 1e-2


def test_a_number_seeds_the_environments_one_after_the_other():
    envs = imagined(3)
    one, _ = envs.reset(seed=7)
    other, _ = envs.reset(seed=[7, 8, 9])
    assert np.array_equal(one, other)
    with pytest.raises(ValueError, match="2 seeds for num_envs=3"):
        envs.reset(seed=[1, 2])


def test_without_a_seed_nobody_knows_how_it_starts():
    one, other = imagined(2), imagined(2)
    one.reset()
    other.reset(seed=[None, 3])
    seeds = [*one.get_state().seed.tolist(), *other.get_state().seed.tolist()]
    assert len(set(seeds)) == 4
    assert seeds[3] == 3
    other.reset(seed=[5, None])
    assert other.get_state().seed.tolist() == [5, 3]
    assert other.get_state().episode.tolist() == [0, 1]


def test_no_gradient_reaches_the_world_model():
    model = tiny_world_model()
    for module in (model.network, model.heads, model.autoencoder):
        for parameter in module.parameters():
            parameter.requires_grad_(True)  # as after training
    judge = torch.nn.Linear(8, 1)

    def reward(step: ImaginedStep) -> Verdict:
        outputs = [step.frames, *step.outputs, step.actions, step.previous]
        assert not any(output.requires_grad for output in outputs)
        value = judge(step.frames).mean((2, 3, 4, 5))
        return Verdict(value, torch.zeros_like(value, dtype=torch.bool))

    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    with torch.enable_grad():
        envs = imagined(2, model, reward=reward, horizon=3, obs_type="pixels", state=True)
        envs.reset(seed=0)
        play(envs, commands(envs, 6))
        state = envs.get_state().imagined
    held = [state.frame, state.robot, state.rollout.anchor, state.rollout.actions]
    assert not any(tensor.requires_grad for tensor in held)
    assert all(parameter.grad is None for parameter in model.network.parameters())
    assert all(value.equal(before[name]) for name, value in model.network.state_dict().items())
