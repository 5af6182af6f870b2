"""Where imagined episodes begin."""

import re

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from imagined_environments import commands, imagined, never, play, shared_model
from tiny_datasets import SIZE
from tiny_world_models import TASKS, tiny_world_model

from video.errors import DatasetError
from video.statistics import Normalizer
from worldmodel.contexts import Contexts
from worldmodel.single_environment import ImaginedEnv
from worldmodel.world_model import WorldModel


def picture(seed: int, height: int = 32, width: int = 32) -> np.ndarray:
    """A smooth picture, so that it survives resizing."""
    corners = np.random.default_rng(seed).integers(0, 256, (3, 2, 2)).astype(np.float32)
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    (a, b), (c, d) = corners.transpose(1, 2, 0)[:, :, None, None]
    x, y = x[..., None], y[..., None]
    return ((a * (1 - x) + b * x) * (1 - y) + (c * (1 - x) + d * x) * y).astype(np.uint8)


def latents_of(model: WorldModel, *pictures: np.ndarray) -> np.ndarray:
    """`(pictures, V=1, C, h, w)`."""
    frames = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    return model.encode(frames).numpy()[:, None]


def test_the_seed_chooses_the_stored_context():
    model = shared_model()
    envs = imagined(16, state=True)
    stored = model.encode(model.contexts.frames).numpy()
    chosen = []
    for seed in (0, 0, 16):
        observations, info = envs.reset(seed=seed)
        np.testing.assert_allclose(observations["latents"], stored[info["context"]], atol=1e-5)
        states = model.contexts.state[info["context"]]
        np.testing.assert_allclose(observations["state"], states, atol=1e-6)
        chosen.append(info["context"].tolist())
    assert chosen[0] == chosen[1] != chosen[2]
    assert set(chosen[0] + chosen[2]) == set(range(len(TASKS)))


def test_the_state_is_in_the_units_of_the_data():
    model = tiny_world_model()
    model.state_normalizer = Normalizer(np.zeros(3), np.array([10.0, 100.0, 1000.0]))
    model.contexts.state[:] = torch.tensor([5.0, 20.0, 900.0])
    envs = imagined(2, model, state=True)
    observations, _ = envs.reset(seed=0)
    np.testing.assert_allclose(observations["state"], [[5.0, 20.0, 900.0]] * 2, rtol=1e-5)
    observations, *_ = envs.step(commands(envs, 1)[0])
    normalised = envs.get_state().imagined.robot.numpy()
    expected = normalised * [5, 50, 500] + [5, 50, 500]
    np.testing.assert_allclose(observations["state"], expected, rtol=1e-4)
    assert np.abs(np.diff(observations["state"], axis=0)).min() > 0


def test_some_contexts_begin_more_episodes_than_others():
    envs = imagined(64, autoreset_mode="same_step", horizon=3)
    weights = np.array([0, 3, 0, 1, 0.0])
    _, info = envs.reset(seed=0, options={"context_weights": weights})
    counts = np.bincount(info["context"], minlength=5)
    assert counts[[0, 2, 4]].sum() == 0
    assert counts[1] > 2 * counts[3] > 0
    _, again = envs.reset(seed=0, options={"context_weights": 2 * weights})
    assert (again["context"] == info["context"]).all()
    for actions in commands(envs, 3):
        *_, info = envs.step(actions)
    assert info["_context"].all(), "all have begun their next episode"
    assert set(info["context"]) == {1, 3}
    _, info = envs.reset(seed=0)
    assert set(info["context"]) == set(range(5)), "the next reset has weights of its own, or none"
    assert envs.context_tasks == TASKS


@pytest.mark.parametrize(
    "weights", [[1, 1], [0] * 5, [1, 1, -1, 1, 1], [1, 1, 1, 1, np.nan], [1, 1, 1, 1, np.inf]]
)
def test_refuses_weights_that_do_not_fit(weights):
    with pytest.raises(ValueError, match="each of the 5 stored contexts"):
        imagined(2).reset(seed=0, options={"context_weights": weights})


def test_only_of_some_tasks():
    for tasks in (["left"], "left"):
        envs = imagined(32, tasks=tasks)
        assert envs.starts.contexts.tasks == ["left", "left"]
        observations, info = envs.reset(seed=0)
        assert set(info["context"].tolist()) == {0, 1}
        stored = shared_model().encode(shared_model().contexts.frames[[0, 2]]).numpy()
        np.testing.assert_allclose(observations, stored[info["context"]], atol=1e-5)
    with pytest.raises(DatasetError, match=r"of the tasks \['lift'\]; there are \['left', 'right'"):
        imagined(1, tasks=["lift"])


def test_only_with_a_known_state_where_it_is_observed():
    model = tiny_world_model()
    model.contexts.state_mask[:] = torch.tensor([False, True, False, False, True])
    assert len(imagined(1, model, state=True).starts.contexts) == 2
    assert len(imagined(1, model).starts.contexts) == 5
    model.contexts.state_mask[:] = False
    with pytest.raises(DatasetError, match="no start context with a known robot state"):
        imagined(1, model, state=True)


def test_contexts_of_a_dataset(tiny_dataset, square_episodes):
    model = tiny_world_model()
    model.state_normalizer = Normalizer(np.zeros(2), np.ones(2))
    for split, first in (("train", 0), ("test", 3)):
        envs = imagined(12, model, contexts=tiny_dataset, split=split)
        contexts = envs.starts.contexts
        assert len(contexts) == {"train": 3, "test": 1}[split]
        assert contexts.tasks == [episode.task for episode in square_episodes][first : first + 3]
        np.testing.assert_allclose(contexts.state[0], square_episodes[first].state[0], rtol=1e-6)
        recorded = square_episodes[first].frames["top"][0].transpose(2, 0, 1)
        assert contexts.frames.shape[1:] == (1, 3, SIZE, SIZE)
        assert np.abs(contexts.frames[0, 0].numpy().astype(int) - recorded).mean() < 4
        assert set(envs.reset(seed=0)[1]["context"].tolist()) == set(range(len(contexts)))
    with pytest.raises(DatasetError, match="no episodes in split 'valid'"):
        imagined(1, model, contexts=tiny_dataset, split="valid")


def test_contexts_of_several_datasets(tiny_dataset):
    model = tiny_world_model()
    model.state_normalizer = Normalizer(np.zeros(2), np.ones(2))
    one = imagined(2, model, contexts=tiny_dataset).starts.contexts
    both = imagined(2, model, contexts=[str(tiny_dataset), tiny_dataset]).starts.contexts
    assert both.tasks == one.tasks * 2
    assert torch.equal(both.frames, torch.cat((one.frames, one.frames)))


def test_contexts_of_ones_own():
    frames = torch.from_numpy(picture(0)).permute(2, 0, 1)[None, None]
    own = Contexts(frames, torch.zeros(1, 3), torch.ones(1, dtype=torch.bool), [""])
    observations, info = imagined(3, contexts=own).reset(seed=0)
    expected = latents_of(shared_model(), picture(0))
    np.testing.assert_allclose(observations, np.repeat(expected, 3, axis=0), atol=1e-5)
    assert info["context"].tolist() == [0, 0, 0]


def test_a_model_without_contexts_says_what_to_do():
    model = tiny_world_model()
    model.contexts = None
    with pytest.raises(DatasetError, match=r"holds no start contexts\. Pass contexts=DATASET"):
        imagined(1, model)


def anchors(envs) -> np.ndarray:
    """The two frames before the first imagined one, `(N, 2, V, C, h, w)`."""
    return envs.get_state().imagined.rollout.anchor.numpy()


def test_one_frame_of_ones_own_for_all():
    envs = imagined(3)
    observations, info = envs.reset(seed=0, options={"context": picture(1)})
    expected = latents_of(shared_model(), picture(1))
    np.testing.assert_allclose(observations, np.repeat(expected, 3, axis=0), atol=1e-5)
    assert np.array_equal(anchors(envs)[:, 0], anchors(envs)[:, 1])  # it has stood still
    assert info["context"].tolist() == [-1, -1, -1]
    # the seeds still decide about the noise
    moment = play(envs, np.repeat(commands(envs, 1)[:, :1], 3, axis=1))[0]
    assert np.abs(moment.observations[1:] - moment.observations[0]).max() > 1e-4
    # the next episode starts from a stored one again
    assert envs.reset()[1]["context"].min() >= 0


def test_several_frames_of_ones_own_bring_the_motion():
    envs = imagined(2)
    pictures = np.stack([picture(seed) for seed in (1, 2, 3)])
    observations, _ = envs.reset(seed=0, options={"context": pictures})
    expected = latents_of(shared_model(), *pictures[1:])
    np.testing.assert_allclose(anchors(envs), np.stack([expected] * 2), atol=1e-5)
    np.testing.assert_allclose(observations, np.stack([expected[1]] * 2), atol=1e-5)
    envs.reset(seed=0, options={"context": pictures[:, None]})  # with the view axis
    np.testing.assert_allclose(anchors(envs), np.stack([expected] * 2), atol=1e-5)
    envs.reset(seed=0, options={"context": torch.from_numpy(pictures)})
    np.testing.assert_allclose(anchors(envs), np.stack([expected] * 2), atol=1e-5)


def test_a_frame_for_each_environment_of_any_size(tmp_path):
    envs = imagined(3)
    imageio.imwrite(tmp_path / "big.png", picture(3, 96, 128))
    given = [picture(1), np.stack([picture(2)] * 4), imageio.imread(tmp_path / "big.png")]
    envs.reset(seed=0)
    before = envs.observe()
    mask = np.array([True, False, True])
    observations, info = envs.reset(options={"context": given, "reset_mask": mask})
    assert info["context"].tolist() == [-1, 0, -1]
    assert info["_context"].tolist() == mask.tolist()
    np.testing.assert_allclose(observations[0], latents_of(shared_model(), given[0])[0], atol=1e-5)
    assert np.array_equal(observations[1], before[1])
    # cropped to a square, and smaller
    cropped = picture(3, 96, 128)[1::3, 17:112:3]
    np.testing.assert_allclose(observations[2], latents_of(shared_model(), cropped)[0], atol=0.2)
    observations, _ = envs.reset(options={"context": given})
    np.testing.assert_allclose(
        observations[1], latents_of(shared_model(), given[1][0])[0], atol=1e-5
    )


def test_two_cameras_of_ones_own():
    envs = imagined(2, shared_model(views=2), obs_type="pixels")
    both = np.stack([picture(1), picture(2)])
    envs.reset(seed=0, options={"context": both[None]})
    expected = latents_of(shared_model(views=2), *both)[:, 0]
    np.testing.assert_allclose(
        anchors(envs), np.broadcast_to(expected, (2, 2, *expected.shape)), atol=1e-5
    )
    with pytest.raises(
        ValueError, match="a context of 1 frames and 1 cameras; the world model has"
    ):
        envs.reset(options={"context": picture(1)})


@pytest.mark.parametrize("state", [[0.1, 0.2, -0.3], [[0.1, 0.2, -0.3], [0.5, 0.0, 0.0]]])
def test_ones_own_state_goes_with_ones_own_frames(state):
    envs = imagined(2, state=True)
    observations, _ = envs.reset(seed=0, options={"context": picture(1), "state": state})
    np.testing.assert_allclose(observations["state"], np.broadcast_to(state, (2, 3)), atol=1e-6)
    envs.reset(seed=0)
    options = {"context": picture(1), "state": state, "reset_mask": np.array([False, True])}
    observations, _ = envs.reset(options=options)
    expected = np.broadcast_to(state, (2, 3))[1]
    np.testing.assert_allclose(observations["state"][1], expected, atol=1e-6)


def test_a_single_environment_takes_them_too():
    env = ImaginedEnv(shared_model(), reward=never, state=True)
    options = {"context": picture(1), "state": [0.1, 0.2, 0.3]}
    observation, info = env.reset(seed=0, options=options)
    np.testing.assert_allclose(
        observation["latents"], latents_of(shared_model(), picture(1))[0], atol=1e-5
    )
    np.testing.assert_allclose(observation["state"], [0.1, 0.2, 0.3], atol=1e-6)
    assert info == {"context": -1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"contexts": picture(0)},
            "unknown options ['contexts']; there are 'context', 'context_weights', 'state', 'r",
        ),
        ({"context": picture(0) / 255}, "a context is uint8 (H, W, 3), (T, H, W, 3) or"),
        ({"context": picture(0)[..., 0]}, "got uint8 (32, 32)"),
        ({"context": picture(0)[None][:0]}, "a context of 0 frames and 1 cameras"),
        ({"context": [picture(0)]}, "options['context'] has 1 entries for 2 envs"),
        ({"context": picture(0)}, "pass options={'context': ..., 'state': ...} with its state in"),
        ({"state": [0.0, 0.0, 0.0]}, "options has 'state' without 'context': pass both or none"),
        (
            {"context": picture(0), "state": [0.0]},
            "options['state'] is (1,), expected (3,) or (2, 3)",
        ),
    ],
)
def test_options_that_do_not_fit_are_named(options, message):
    envs = imagined(2, state=True)
    before, _ = envs.reset(seed=0)
    with pytest.raises(ValueError, match=re.escape(message)):
        envs.reset(options=options)
    assert np.array_equal(envs.observe()["latents"], before["latents"])


def test_a_model_that_knows_no_state_takes_none():
    envs = imagined(2, shared_model(heads=False, told=False))
    with pytest.raises(ValueError, match="does not know the robot's state, so leave it out"):
        envs.reset(seed=0, options={"context": picture(0), "state": [0.0, 0.0, 0.0]})
    with pytest.raises(ValueError, match="state=True, but this world model does not predict the"):
        imagined(2, shared_model(heads=False, told=False), state=True)
