import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
import torch
from counting_envs import counting_envs
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary
from gymnasium.vector import AutoresetMode
from tiny_world_models import rising, tiny_world_model

pytest.importorskip("torchrl")

from tensordict.nn import TensorDictModule
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.envs import RewardSum, StepCounter, TransformedEnv, check_env_specs
from torchrl.modules import ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

import worldmodel  # noqa: F401 (registers the environment)
from worldmodel.adapters.torchrl import TorchRLEnv, spec_of

with warnings.catch_warnings():  # torchrl 0.14 warns of itself while it is imported
    warnings.filterwarnings("ignore", ".*WeightUpdaterBase is deprecated", DeprecationWarning)
    from torchrl.collectors import Collector

DISABLED = AutoresetMode.DISABLED
ONE = torch.Size([1])


def adapted(num_envs=3, info_keys=(), **options):
    return TorchRLEnv(counting_envs(DISABLED, num_envs, **options), info_keys)


def cartpoles(num_envs=2):
    makers = [lambda: gymnasium.make("CartPole-v1")] * num_envs
    return TorchRLEnv(gymnasium.vector.SyncVectorEnv(makers, autoreset_mode=DISABLED))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"as_dict": True, "discrete": False},
        {"info_keys": ("uncertainty", "success")},
        {"as_dict": True, "info_keys": ("success",)},
    ],
)
def test_torchrl_finds_its_specs_true(options):
    check_env_specs(adapted(**options), break_when_any_done="both", seed=0)
    check_env_specs(TransformedEnv(adapted(**options), RewardSum()))


def test_specs():
    env = adapted(as_dict=True, discrete=False, info_keys=["uncertainty"])
    assert env.batch_size == (3,)
    assert env.batch_locked
    assert set(env.observation_spec.keys()) == {"counters", "picture", "uncertainty"}
    assert env.observation_spec["picture"].shape == (3, 2, 2, 3)
    assert env.action_spec == Bounded(-1, 1, shape=(3, 2))
    assert set(env.full_done_spec.keys()) == {"done", "terminated", "truncated"}
    assert env.full_done_spec["done"].shape == (3, 1)


def test_a_collector_sees_every_episode_to_its_end():
    """Steps run 0, 1, ... to the end of each episode; each `next` is one further."""
    frames = collect(adapted(copy=False), 3 * 40)
    counted = frames["observation"]
    after = frames["next", "observation"]
    for number in range(3):
        length = number + 2
        steps = torch.arange(40) % length
        episodes = torch.arange(40) // length
        own = torch.full((40,), number)
        assert torch.equal(counted[number], torch.stack((own, episodes, steps), 1).float())
        assert torch.equal(after[number], torch.stack((own, episodes, steps + 1), 1).float())
        assert torch.equal(frames["next", "reward"][number, :, 0], (steps + 1).float())
        over = steps == length - 1
        assert torch.equal(frames["next", "done"][number, :, 0], over)
        assert torch.equal(frames["next", "truncated"][number, :, 0], over)
        assert torch.equal(
            frames["next", "terminated"][number, :, 0], over & torch.tensor(number % 2 == 0)
        )
        assert not frames["done"].any(), "a step never starts from an ended episode"


def collector_of(env, policy, frames_per_batch, total_frames):
    return Collector(
        env,
        policy,
        frames_per_batch=frames_per_batch,
        total_frames=total_frames,
        auto_register_policy_transforms=True,
    )


def collect(env, frames_per_batch, batches=1):
    policy = TensorDictModule(
        lambda observation: torch.zeros(observation.shape[0], dtype=torch.long),
        in_keys=["observation"],
        out_keys=["action"],
    )
    total = batches * frames_per_batch
    collector = collector_of(env, policy, frames_per_batch, total)
    frames = [batch.clone() for batch in collector]
    collector.shutdown()
    return torch.cat(frames, dim=-1)


def test_episodes_go_on_from_batch_to_batch():
    frames = collect(adapted(), 3 * 5, batches=4)
    assert frames["observation"][2, :, 2].tolist() == [0, 1, 2, 3] * 5


def test_transforms_of_torchrl_keep_count():
    frames = collect(TransformedEnv(adapted(), StepCounter()), 3 * 12)
    assert torch.equal(frames["step_count"][..., 0], frames["observation"][..., 2].long())


def test_info_becomes_an_observation():
    frames = collect(adapted(info_keys=("uncertainty", "success")), 3 * 6)
    time = frames["next", "observation"][..., 2:]
    assert torch.allclose(frames["next", "uncertainty"], time / 10)
    assert torch.equal(frames["next", "success"] == 1, frames["next", "terminated"])
    assert frames["uncertainty"][0, ::2].eq(0).all(), "nothing is known at the start"


def test_without_info_keys_there_is_no_info():
    assert set(adapted().reset().keys()) == {"observation", "done", "terminated", "truncated"}


def test_what_info_says_of_others_is_no_news_of_mine():
    env = adapted(info_keys=("success",))
    stale = {"success": np.array([True, True, False]), "_success": np.array([True, False, True])}
    assert env._info("success", stale).tolist() == [[1], [0], [0]]


def test_resets_those_it_is_asked_to():
    env = adapted()
    state = env.reset()
    state = env.step(state.set("action", torch.zeros(3, dtype=torch.long)))["next"]
    state["_reset"] = torch.tensor([[False], [True], [False]])
    state = env.reset(state)
    assert state["observation"].tolist() == [[0, 0, 1], [1, 1, 0], [2, 0, 1]]
    state = env.step(state.set("action", torch.zeros(3, dtype=torch.long)))["next"]
    assert state["observation"].tolist() == [[0, 0, 2], [1, 1, 1], [2, 0, 2]]


def test_resets_nothing_if_asked_for_nothing():
    env = adapted()
    state = env.rand_step(env.reset())["next"]
    state["_reset"] = torch.zeros(3, 1, dtype=torch.bool)
    assert env.reset(state)["observation"].tolist() == [[0, 0, 1], [1, 0, 1], [2, 0, 1]]


def test_a_seed_is_used_once_and_repeats_the_episode():
    env = cartpoles()
    env.set_seed(3)
    first = env.reset()["observation"]
    assert not torch.equal(env.reset()["observation"], first)
    env.set_seed(3)
    assert torch.equal(env.reset()["observation"], first)
    gymnasiums, _ = env.env.reset(seed=3)
    assert torch.equal(first, torch.as_tensor(gymnasiums)), "the seed that gymnasium means"


def test_what_was_collected_stays_as_it_was():
    env = adapted(copy=False)
    start = env.reset()
    before = start["observation"].clone()
    env.rand_step(start.clone())
    assert torch.equal(start["observation"], before)


def test_is_on_its_device():
    env = TorchRLEnv(counting_envs(DISABLED), device="meta")
    assert env.observation_spec.device.type == "meta"
    assert env._reset()["observation"].device.type == "meta"
    assert env.action_spec.device.type == "meta"


def test_learns_from_what_a_collector_brings():
    """TorchRL's own loss and advantages take these tensordicts."""
    layer = torch.nn.Linear(3, 2)
    actor = ProbabilisticActor(
        TensorDictModule(layer, in_keys=["observation"], out_keys=["logits"]),
        in_keys=["logits"],
        distribution_class=torch.distributions.Categorical,
        return_log_prob=True,
    )
    critic = ValueOperator(torch.nn.Linear(3, 1))
    collector = collector_of(adapted(), actor, 60, 60)
    batch = next(iter(collector))
    GAE(gamma=0.9, lmbda=0.9, value_network=critic)(batch)
    losses = ClipPPOLoss(actor, critic)(batch)
    sum(losses[key] for key in ("loss_objective", "loss_critic")).backward()
    assert layer.weight.grad.abs().sum() > 0
    collector.shutdown()


def imagined(num_envs=3, info_keys=(), **options):
    envs = gymnasium.make_vec(
        "worldmodel/Imagined-v0",
        num_envs=num_envs,
        vectorization_mode="vector_entry_point",
        checkpoint=tiny_world_model(),
        horizon=6,
        reward=rising,
        autoreset_mode="disabled",
        **options,
    )
    return TorchRLEnv(envs, info_keys)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"state": True},
        {"obs_type": "pixels"},
        {"chunk": 2, "info_keys": ("success", "elapsed_steps")},
    ],
)
def test_the_imagined_environment_has_true_specs(options):
    check_env_specs(imagined(**options), break_when_any_done="both", seed=0)


def test_a_collector_sees_imagined_episodes_to_their_end():
    env = imagined(info_keys=("elapsed_steps",))
    policy = TensorDictModule(
        lambda observation: torch.zeros(len(observation), 2), ["observation"], ["action"]
    )
    collector = collector_of(env, policy, 3 * 12, 3 * 12)
    frames = next(iter(collector)).clone()
    steps = torch.arange(12).expand(3, 12)
    assert torch.equal(frames["next", "elapsed_steps"][..., 0], steps % 6 + 1.0)
    assert torch.equal(frames["next", "truncated"][..., 0], steps % 6 == 5)
    same = (frames["next", "observation"][:, :-1] == frames["observation"][:, 1:]).flatten(2).all(2)
    assert torch.equal(same, steps[:, :-1] % 6 != 5), "one goes on from what it reached"
    moved = (frames["next", "observation"] != frames["observation"]).flatten(2).any(2)
    assert moved.all()
    collector.shutdown()


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_refuses_another_autoreset_mode(mode):
    with pytest.raises(ValueError, match='autoreset_mode="disabled"') as error:
        TorchRLEnv(counting_envs(mode))
    assert mode.name in str(error.value)


def test_spaces():
    assert spec_of(Discrete(3), ONE, None) == Categorical(3, shape=(1,), dtype=torch.int64)
    assert spec_of(Box(-1, 2, (2,)), ONE, None) == Bounded(-1, 2, shape=(1, 2))
    half = Box(np.zeros(2, np.float32), np.array([1, np.inf], np.float32))
    assert spec_of(half, ONE, None) == Unbounded((1, 2))
    nested = Dict(a=Dict(b=Box(0, 255, (2,), np.uint8)))
    inner = Composite(b=Bounded(0, 255, shape=(1, 2), dtype=torch.uint8), shape=(1,))
    assert spec_of(nested, ONE, None) == Composite(a=inner, shape=(1,))


def test_spaces_it_does_not_know():
    with pytest.raises(TypeError, match="MultiBinary"):
        spec_of(MultiBinary(3), ONE, None)
    with pytest.raises(ValueError, match="starts at 2"):
        spec_of(Discrete(3, start=2), ONE, None)


def test_refuses_actions_in_parts():
    envs = counting_envs(DISABLED)
    envs.single_action_space = Dict(a=Discrete(2))
    with pytest.raises(TypeError, match="flattens"):
        TorchRLEnv(envs)


def test_refuses_an_info_key_that_is_taken():
    with pytest.raises(ValueError, match="'observation'"):
        adapted(info_keys=("observation",))


def test_refuses_info_that_is_no_number():
    env = adapted(info_keys=("vector",))
    with pytest.raises(ValueError, match=r"info\['vector'\] has the shape \(3, 2\)"):
        env._info("vector", {"vector": np.zeros((3, 2))})


def test_close_closes():
    env = adapted()
    env.close()
    assert env.env.closed


def test_says_how_to_get_the_library():
    code = "import sys; sys.modules['tensordict'] = None\nimport worldmodel.adapters.torchrl"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install -e '.[rl]'" in result.stderr
