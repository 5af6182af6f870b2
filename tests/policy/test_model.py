import json

import numpy as np
import pytest
import torch
from imagined_environments import shared_model
from safetensors.torch import load_file, save_file
from tiny_policies import SHAPES, tiny_policy

from policy.model import Policy
from video.errors import DatasetError
from video.statistics import Normalizer
from worldmodel.environment import ImaginedVectorEnv


def observations(envs: int = 3) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "latents": generator.normal(size=(envs, 1, 4, 8, 8)).astype(np.float32),
        "state": generator.normal(size=(envs, 3)).astype(np.float32),
    }


def test_a_saved_policy_acts_as_before(tmp_path):
    before = tiny_policy()
    before.save_pretrained(tmp_path / "policy")
    after = Policy.from_pretrained(tmp_path / "policy")
    np.testing.assert_array_equal(after.act(observations()), before.act(observations()))
    assert (after.shapes, after.chunk, after.fps) == (SHAPES, 4, 10.0)
    assert (after.cameras, after.frame_size) == (("top",), (32, 32))
    assert (after.autoencoder, after.notes) == (before.autoencoder, before.notes)
    assert sorted(path.name for path in (tmp_path / "policy").iterdir()) == [
        "actor.safetensors",
        "policy.json",
    ]
    assert not any(p.requires_grad for p in after.actor.parameters())


def test_actions_are_in_the_environments_units_and_as_many_as_asked_for():
    acting = tiny_policy()
    actions = acting.act(observations())
    tensors = {key: torch.from_numpy(value) for key, value in observations().items()}
    with torch.no_grad():
        mean = acting.actor.act(tensors, deterministic=True).numpy()
    np.testing.assert_allclose(actions, mean * [2, 0.5] + [0, 0.5], rtol=1e-5)
    np.testing.assert_array_equal(acting.act(observations(), steps=2), actions[:, :2])
    with pytest.raises(ValueError, match="this policy chooses 4"):
        acting.act(observations(), steps=5)


def test_chance_is_the_generators():
    drawn = [
        tiny_policy().act(
            observations(), None, torch.Generator().manual_seed(seed), deterministic=False
        )
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_environments_that_do_not_fit_are_explained():
    env = ImaginedVectorEnv(shared_model(), 2, chunk=4, state=True)
    tiny_policy().check(env)
    tiny_policy(chunk=8).check(env)
    alone = {"shapes": {"latents": (1, 4, 8, 8)}}
    tiny_policy(**alone).check(ImaginedVectorEnv(shared_model(), 2, chunk=4))
    for made, message in (
        (tiny_policy(chunk=2), "Set the environment's chunk to 2"),
        (tiny_policy(autoencoder="0123"), "latents of the autoencoder 0123"),
        (tiny_policy(fps=20.0), "20 steps a second, the environment at 10"),
        (tiny_policy(action_normalizer=Normalizer(-np.ones(3), np.ones(3))), "have 3 dimensions"),
        (tiny_policy(shapes={"goal": (3,)}), "needs 'goal'"),
    ):
        with pytest.raises(ValueError, match=message):
            made.check(env)


def test_folders_that_are_no_policy_are_explained(tmp_path):
    with pytest.raises(DatasetError, match="behaviour_cloning"):
        Policy.from_pretrained(tmp_path)
    folder = tmp_path / "policy"
    tiny_policy().save_pretrained(folder)
    weights = load_file(folder / "actor.safetensors")
    weights.pop("raw_std")
    save_file(weights, folder / "actor.safetensors")
    with pytest.raises(DatasetError, match="does not fit"):
        Policy.from_pretrained(folder)
    (folder / "actor.safetensors").write_bytes(b"damaged")
    with pytest.raises(DatasetError, match="damaged or incomplete"):
        Policy.from_pretrained(folder)
    saved = json.loads((folder / "policy.json").read_text())
    (folder / "policy.json").write_text(json.dumps(saved | {"format": 99}))
    with pytest.raises(DatasetError, match="format 99"):
        Policy.from_pretrained(folder)
    tiny_policy().save_pretrained(folder)
    saved.pop("fps")
    (folder / "policy.json").write_text(json.dumps(saved))
    with pytest.raises(DatasetError, match=r"policy is damaged or incomplete \('fps' is missing"):
        Policy.from_pretrained(folder)


def test_an_actor_without_weights_cannot_be_saved(tmp_path):
    made = tiny_policy()
    made.actor = object()
    with pytest.raises(DatasetError, match="cannot be saved"):
        made.save_pretrained(tmp_path / "policy")
