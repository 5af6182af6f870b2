"""Policies that are put together in YAML, evaluated as saved ones are."""

import json

import numpy as np
import pytest
from imagined_environments import shared_model, success_at
from tiny_autoencoders import tiny_autoencoder
from tiny_policies import tiny_policy
from tiny_world_models import tiny_world_model

from policy.actors.video_prediction import VideoPredictionActor
from policy.described import load_policy, name_of, results_of
from policy.evaluate import evaluate
from policy.real import RealVectorEnv
from video.errors import DatasetError
from worldmodel.environment import ImaginedVectorEnv

VIDEO_PREDICTION = """
class_path: policy.actors.video_prediction.VideoPredictionActor
init_args:
  generator:
    class_path: worldmodel.generator.VideoGenerator
    init_args: {checkpoint: FOLDER, query: joint, steps: 1}
  reader: FOLDER
  chunk: 2
  horizon: 4
"""
UWM_QUERY = """
class_path: worldmodel.policy_query.PolicyQuery
init_args: {checkpoint: FOLDER, steps: 1}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved world model."""
    folder = tmp_path_factory.mktemp("world") / "model"
    tiny_world_model().save_pretrained(folder)
    return folder


@pytest.fixture
def write(folder, tmp_path):
    """Write a description, and say where."""

    def write(text, name="mine.yaml"):
        path = tmp_path / name
        path.write_text(text.replace("FOLDER", str(folder)))
        return path

    return write


def test_parts_are_put_together(write):
    policy = load_policy(write(VIDEO_PREDICTION))
    assert isinstance(policy.actor, VideoPredictionActor)
    assert policy.actor.generator.query == "joint"
    assert (policy.chunk, policy.fps, policy.frame_size) == (2, 10.0, (32, 32))
    assert policy.autoencoder == shared_model().autoencoder.fingerprint
    envs = ImaginedVectorEnv(shared_model(), 2, state=True, chunk=2)
    policy.check(envs)
    observations, _ = envs.reset(seed=0)
    actions = policy.act(observations)
    assert actions.shape == (2, 2, 2)
    assert np.array_equal(policy.act(observations), actions)


@pytest.mark.parametrize("description", [VIDEO_PREDICTION, UWM_QUERY], ids=["video", "query"])
def test_a_description_is_evaluated_as_a_saved_policy_is(write, description, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    options = {"num_envs": 2, "horizon": 4, "chunk": 2, "render_mode": "rgb_array", "state": True}
    real = RealVectorEnv(
        "toy_simulators:toy/Left-v0", autoencoder=tiny_autoencoder(), workers=0, **options
    )
    imagined = ImaginedVectorEnv(shared_model(), reward=success_at(3, 0), **options)
    result = evaluate(write(description), real, imagined, episodes=2, seed=0)
    written = tmp_path / "runs" / "mine" / "evaluation.json"
    assert json.loads(written.read_text()) == result
    assert result["real"]["episodes"] == result["imagined"]["episodes"] == 2


def test_saved_policies_are_loaded_by_their_folder(tmp_path):
    tiny_policy().save_pretrained(tmp_path / "run" / "policy")
    assert load_policy(tmp_path / "run" / "policy").notes == {"episodes": [3]}
    assert name_of(tmp_path / "run" / "policy") == "run"
    assert name_of("configs/policies/uwm_query.yaml") == "uwm_query"
    assert results_of(tmp_path / "run" / "policy") == tmp_path / "run"


def test_descriptions_that_cannot_be_are_explained(write, tmp_path):
    with pytest.raises(DatasetError, match="does not exist"):
        load_policy(tmp_path / "nowhere.yaml")
    with pytest.raises(DatasetError, match="no class_path"):
        load_policy(write("init_args: {}"))
    with pytest.raises(DatasetError, match="cannot be read"):
        load_policy(write("class_path: [unfinished"))
    with pytest.raises(DatasetError, match=r"worldmodel\.nothing\.Here cannot be imported"):
        load_policy(write("class_path: worldmodel.nothing.Here"))
    with pytest.raises(DatasetError, match=r"does not take these init_args: .*'stepz'"):
        load_policy(write(UWM_QUERY.replace("steps", "stepz")))
    with pytest.raises(DatasetError, match="does not say what it sees"):
        load_policy(write("class_path: policy.ppo.PPOOptions"))
