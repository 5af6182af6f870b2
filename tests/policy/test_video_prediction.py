"""Imagine, read, act: with the world model's parts, and with some that are told what to imagine."""

from types import SimpleNamespace

import pytest
import torch
from imagined_environments import shared_model

from policy.actors.actor import Actor
from policy.actors.video_prediction import VideoGenerator, VideoPredictionActor
from policy.described import SelfDescribed
from video.action_model import Estimate
from video.errors import DatasetError
from worldmodel import generator as worldmodel_generator
from worldmodel.action_query import InverseDynamicsQuery
from worldmodel.rollout import joint_rollout, rollout

FRAME = torch.randn(3, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))


class Brighter:
    """Imagines that every frame is brighter, by 1, 3, 5, ... times its row's seed."""

    fps, cameras, frame_size = 10.0, ("camera_0",), (32, 32)
    latent_shape, latents_of = (1, 4, 8, 8), "mine"

    def imagine(self, frame, horizon, seeds):
        steps = torch.arange(1, horizon + 1).square()
        return frame[:, None] + (seeds[:, None] * steps)[..., None, None, None, None]

    def decode(self, latents):
        return latents[..., :3, :, :].byte()


class Reader:
    """Reads how much brighter each frame became, twice, and keeps what it was shown."""

    fps, cameras, frame_size = 10.0, ("camera_0",), (32, 32)
    action_normalizer = shared_model().action_normalizer

    def __init__(self, latents_of):
        self.latents_of = latents_of

    def encode(self, frames):
        return frames.float()

    def read(self, inputs):
        self.shown = inputs
        change = inputs.diff(dim=1).mean((2, 3, 4, 5))
        return Estimate(torch.stack((change, change), -1), torch.ones(*change.shape, 2))


def world_generator(**options):
    return worldmodel_generator.VideoGenerator(shared_model(), **options)


def test_the_first_actions_of_what_is_imagined_are_taken():
    reader = Reader("mine")
    actor = VideoPredictionActor(Brighter(), reader, chunk=2, horizon=5, seed=7)
    actions = actor.act({"latents": FRAME, "state": torch.zeros(3, 4)}, deterministic=True)
    expected = torch.tensor([[7.0, 7.0], [21.0, 21.0]]).expand(3, -1, -1)
    torch.testing.assert_close(actions, expected, rtol=0, atol=1e-4)
    assert reader.shown.shape == (3, 6, 1, 4, 8, 8)
    assert reader.shown[:, 0].equal(FRAME)


def test_a_reader_of_other_latents_gets_the_frames():
    reader = Reader("others")
    actor = VideoPredictionActor(Brighter(), reader, chunk=1, horizon=2, seed=3)
    actor.act({"latents": FRAME.abs()}, deterministic=True)
    assert reader.shown.shape == (3, 3, 1, 3, 8, 8)
    assert reader.shown.equal(reader.shown.floor())


def test_chance_comes_from_the_generator():
    actor = VideoPredictionActor(Brighter(), Reader("mine"), chunk=1, horizon=1)

    def act(seed):
        return actor.act({"latents": FRAME}, torch.Generator().manual_seed(seed))

    assert act(1).equal(act(1))
    assert not act(1).equal(act(2))
    assert len(act(1)[:, 0, 0].unique()) == 3  # every environment has noise of its own


@pytest.mark.parametrize("query", ["video_generation", "joint"])
def test_a_world_model_generates_video(query):
    generator = world_generator(query=query, steps=2)
    assert isinstance(generator, VideoGenerator)
    model, seeds = shared_model(), torch.tensor([4, 5, 4])
    together = generator.imagine(FRAME, 6, seeds)
    assert together.shape == (3, 6, 1, 4, 8, 8)
    for row in range(3):
        alone = generator.imagine(FRAME[row : row + 1], 6, seeds[row : row + 1])
        torch.testing.assert_close(alone[0], together[row])
    draws = [worldmodel_generator.step_generator(seed) for seed in seeds.tolist()]
    if query == "joint":
        expected = joint_rollout(model.network, FRAME[:, None], 6, draws, 2)
    else:
        expected = rollout(model.network, FRAME[:, None], None, 6, draws, steps=2)
    assert together.equal(expected)
    same = generator.imagine(FRAME[:1].expand(2, -1, -1, -1, -1), 6, seeds[:2])
    assert not same[0].equal(same[1])


def test_the_world_model_reads_what_it_imagines_itself():
    actor = VideoPredictionActor(world_generator(steps=1), InverseDynamicsQuery(shared_model()))
    assert isinstance(actor, Actor)
    assert isinstance(actor, SelfDescribed)
    assert actor.shapes == {"latents": (1, 4, 8, 8)}
    first = actor.act({"latents": FRAME}, deterministic=True)
    assert first.shape == (3, 4, 2)
    assert first.equal(actor.act({"latents": FRAME}, deterministic=True))


def test_parts_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"chunk=3 must be .* at most horizon=2"):
        VideoPredictionActor(Brighter(), Reader(None), chunk=3, horizon=2)
    slow = SimpleNamespace(**{name: getattr(Reader, name) for name in ("cameras", "frame_size")})
    slow.fps, slow.action_normalizer = 5.0, Reader.action_normalizer
    with pytest.raises(DatasetError, match=r"fps 10.0, the reader was trained on 5.0"):
        VideoPredictionActor(Brighter(), slow)
    with pytest.raises(DatasetError, match="does not exist"):
        VideoPredictionActor(Brighter(), tmp_path / "nowhere")
    with pytest.raises(ValueError, match="query='policy'"):
        world_generator(query="policy")
