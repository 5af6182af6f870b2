"""The contract with gymnasium: made by its id, checked by its checker, wrapped by its wrappers."""

import re
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from imagined_environments import commands, imagined, never, shared_model

import worldmodel  # noqa: F401 (registers the environment)
from video.errors import DatasetError
from worldmodel.environment import ImaginedVectorEnv
from worldmodel.single_environment import ImaginedEnv

ID = "worldmodel/Imagined-v0"

WARNED = [
    "A Box observation space minimum value is -infinity",
    "A Box observation space maximum value is infinity",
    "For Box action spaces, we recommend using a symmetric and normalized space",
]
"""What gymnasium's checker has to say of latents, and of actions in the data's own units."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model"
    shared_model().save_pretrained(path)
    return path


def make_vec(num_envs, **options):
    return gymnasium.make_vec(
        ID, num_envs=num_envs, vectorization_mode="vector_entry_point", **options
    )


@pytest.mark.parametrize("chunk", [1, 2, 4])
@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("obs_type", ["latents", "pixels"])
@pytest.mark.filterwarnings(*(f"ignore:.*{re.escape(text)}" for text in WARNED))
def test_passes_the_checker_of_gymnasium(obs_type, state, chunk):
    env = gymnasium.make(
        ID,
        checkpoint=shared_model(),
        obs_type=obs_type,
        state=state,
        chunk=chunk,
        render_mode="rgb_array",
    )
    check_env(env.unwrapped)


def test_made_by_its_id_and_again_from_its_spec(folder):
    env = gymnasium.make(ID, checkpoint=str(folder), horizon=3, reward="dense")
    assert isinstance(env.unwrapped, ImaginedEnv)
    assert env.spec.id == ID
    assert env.spec.kwargs == {"checkpoint": str(folder), "horizon": 3, "reward": "dense"}
    again = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    actions = commands(env, 3)
    for one, other in zip(*(_episode(e, actions) for e in (env, again)), strict=True):
        np.testing.assert_array_equal(one, other)


def _episode(env, actions):
    """The observations of a whole episode, of at most three steps."""
    observations = [env.reset(seed=1)[0]]
    for action in actions:
        observation, _, terminated, truncated, _ = env.step(action)
        observations.append(observation)
        if terminated or truncated:
            return observations
    raise AssertionError("the horizon of 3 did not end it")


@pytest.mark.parametrize("mode", [None, "vector_entry_point"])
def test_many_made_by_their_id_are_one_native_batch(folder, mode):
    envs = gymnasium.make_vec(ID, num_envs=4, vectorization_mode=mode, checkpoint=folder)
    assert isinstance(envs, ImaginedVectorEnv)
    assert envs.spec.id == ID
    assert envs.num_envs == 4
    assert envs.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    assert gymnasium.make_vec(envs.spec).num_envs == 4
    envs.close()
    assert envs.closed


@pytest.mark.parametrize("given", ["same_step", "SameStep", AutoresetMode.SAME_STEP])
def test_declares_its_autoreset_mode(given):
    assert imagined(autoreset_mode=given).metadata["autoreset_mode"] == AutoresetMode.SAME_STEP


def test_the_id_is_known_without_importing_anything_heavy():
    script = f"""
import sys
import gymnasium
import worldmodel
assert gymnasium.spec("{ID}").vector_entry_point.startswith("worldmodel.")
print({{"torch", "diffusers", "lightning"}} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_found_by_a_program_that_never_imported_the_package(folder):
    script = f"""
import gymnasium
env = gymnasium.make("worldmodel:{ID}", checkpoint={str(folder)!r})
env.reset(seed=0)
print(len(env.step(env.action_space.sample())))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "5\n", done.stderr


@pytest.mark.parametrize("views", [1, 2])
def test_renders_every_camera_beside_the_other(views):
    model = shared_model(views=views)
    env = gymnasium.make(ID, checkpoint=model, reward=never, render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    env.step(env.action_space.sample())
    after = env.render()
    for picture in (before, after):
        assert picture.shape == (32, 32 * views, 3)
        assert picture.dtype == np.uint8
    assert not np.array_equal(before, after)
    assert env.metadata["render_fps"] == 10
    envs = imagined(3, model, render_mode="rgb_array")
    envs.reset(seed=0)
    assert isinstance(envs.render(), tuple)
    assert len(envs.render()) == 3
    np.testing.assert_allclose(envs.render()[0].astype(int), before, atol=1)
    assert imagined(3, model).render() is None
    assert imagined(3, model, chunk=4).metadata["render_fps"] == 2.5, "a picture for four frames"


def test_a_batch_in_the_spaces_that_were_declared():
    for options in ({}, {"obs_type": "pixels"}, {"state": True, "chunk": 4}):
        envs = imagined(3, **options)
        observations, info = envs.reset(seed=0)
        assert observations in envs.observation_space
        assert info["context"].dtype == np.int64
        observations, reward, terminated, truncated, info = envs.step(envs.action_space.sample())
        assert observations in envs.observation_space
        assert (reward.dtype, reward.shape) == (np.float64, (3,))
        assert terminated.dtype == truncated.dtype == np.bool_
        told = {name: info[name].dtype for name in info if not name.startswith("_")}
        assert told == {"success": np.bool_, "elapsed_steps": np.int64, "uncertainty": np.float32}
        assert all(info[f"_{name}"].tolist() == [True] * 3 for name in told)


def test_a_model_without_heads_has_no_uncertainty():
    envs = imagined(2, shared_model(heads=False))
    envs.reset(seed=0)
    assert "uncertainty" not in envs.step(envs.action_space.sample())[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_envs": 0}, "num_envs=0 and horizon=64 must be at least 1"),
        ({"horizon": 0}, "num_envs=1 and horizon=0 must be at least 1"),
        ({"render_mode": "human"}, "render_mode='human': there is only 'rgb_array'"),
        ({"autoreset_mode": "never"}, "autoreset_mode='never': use one of ['disabled', 'next_st"),
        ({"chunk": 3}, "chunk=3 does not divide the model's block of 4 frames"),
        ({"chunk": 0}, "chunk=0 does not divide"),
        ({"steps": 0}, "steps=0: the sampler needs at least one step"),
        ({"dtype": "float16"}, "dtype='float16': use 'float32' or 'bfloat16'"),
        ({"obs_type": "rgb"}, "obs_type='rgb': use 'latents' or 'pixels'"),
    ],
)
def test_options_that_cannot_be_are_named(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ImaginedVectorEnv(shared_model(), **options)


def test_a_folder_that_is_no_world_model(tmp_path):
    with pytest.raises(DatasetError, match=r"is no world model. Train one with `lightning fit"):
        make_vec(2, checkpoint=tmp_path)


def test_a_single_environment_has_no_options_of_the_batch():
    with pytest.raises(TypeError, match=r"num_envs is an option of the vector env.*use make_vec"):
        gymnasium.make(ID, checkpoint=shared_model(), num_envs=2)
    with pytest.raises(TypeError, match="horizons"):
        gymnasium.make(ID, checkpoint=shared_model(), horizons=2)
