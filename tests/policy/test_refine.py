"""`lightning fit -c` of a refinement, with a tiny world model and a tiny policy."""

import csv
import shutil
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
import yaml
from tiny_world_models import ACTION_HIGH, ACTION_LOW, tiny_world_model

from policy.actors.flow import FlowActor
from policy.actors.gaussian import GaussianActor
from policy.curriculum import Curriculum
from policy.frozen import FrozenFolder, folder_hash
from policy.model import Policy
from policy.refine import Refinement, _context_tasks
from policy.rollout import Episodes
from video.cli import main
from video.errors import DatasetError
from video.statistics import Normalizer
from worldmodel.environment import ImaginedVectorEnv

SHAPES = {"latents": (1, 4, 8, 8), "state": (3,)}
SMALL = {"width": 16, "depth": 1, "channels": 4}


def tiny_policy(kind=GaussianActor, chunk=2) -> Policy:
    torch.manual_seed(0)
    return Policy(
        actor=kind(SHAPES, 2, chunk=chunk, **SMALL),
        shapes=SHAPES,
        action_normalizer=Normalizer(ACTION_LOW, ACTION_HIGH),
        fps=10.0,
        cameras=("camera_0",),
        frame_size=(32, 32),
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    home = tmp_path_factory.mktemp("refine")
    tiny_world_model().save_pretrained(home / "world")
    tiny_policy().save_pretrained(home / "policy")
    tiny_policy(FlowActor).save_pretrained(home / "flow")
    return home


def config(home, run, policy="policy", iterations=3, **model):
    environment = {
        "checkpoint": str(home / "world"),
        "num_envs": 4,
        "horizon": 6,
        "chunk": 2,
        "state": True,
        "autoreset_mode": "same_step",
    }
    content = {
        "seed_everything": 0,
        "model": {
            "class_path": "policy.refine.Refinement",
            "init_args": {
                "policy": str(home / policy),
                "environment": {
                    "class_path": "worldmodel.environment.ImaginedVectorEnv",
                    "init_args": environment,
                },
                "steps": 3,
                "ppo": {"epochs": 2, "minibatches": 2, "anchor_weight": 0.05, "critic_warmup": 1},
                **model,
            },
        },
        "checkpoint": {"every_n_steps": 1},
        "trainer": {
            "default_root_dir": str(run),
            "accelerator": "cpu",
            "max_steps": iterations,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "callbacks": [
                {
                    "class_path": "policy.frozen.FrozenFolder",
                    "init_args": {"folder": str(home / "world")},
                }
            ],
        },
    }
    path = run.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(content))
    return path


def fit(path, *words):
    main(["fit", "-c", str(path), *words])


def rows(run):
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def actor_weights(folder):
    return Policy.from_pretrained(folder).actor.state_dict()


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_policy_in_a_refined_policy_out(folders, tmp_path):
    before = folder_hash(folders / "world")
    fit(config(folders, tmp_path / "run"))
    assert folder_hash(folders / "world") == before
    assert not same(actor_weights(folders / "policy"), actor_weights(tmp_path / "run" / "policy"))
    refined = Policy.from_pretrained(tmp_path / "run" / "policy")
    assert refined.notes["refined_iterations"] == 3
    found = rows(tmp_path / "run")
    assert [row["step"] for row in found] == ["0", "1", "2"]
    wanted = {"success", "return", "anchor_kl", "clip_fraction", "explained_variance"}
    wanted |= {"uncertainty", "steps_per_second", "entropy"}
    assert all(row[name] for row in found for name in wanted)
    assert (tmp_path / "run" / "refinement.png").read_bytes()[1:4] == b"PNG"


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(folders, tmp_path):
    fit(config(folders, tmp_path / "whole"))
    fit(config(folders, tmp_path / "parts", iterations=2))
    assert len(rows(tmp_path / "parts")) == 2
    fit(config(folders, tmp_path / "parts"), "--ckpt_path", "last")
    assert len(rows(tmp_path / "parts")) == 3
    whole, parts = (actor_weights(tmp_path / run / "policy") for run in ("whole", "parts"))
    assert same(whole, parts)


@pytest.mark.parametrize("kind", ["residual.ResidualActor", "steering.SteeringActor"])
def test_a_flow_is_corrected_or_steered(kind, folders, tmp_path):
    actor = {"class_path": f"policy.actors.{kind}", "init_args": dict(SMALL)}
    learned = []
    for iterations in (1, 3):  # the first of which only the critic learns from
        fit(config(folders, tmp_path / "run", "flow", iterations=iterations, actor=actor))
        refined = Policy.from_pretrained(tmp_path / "run" / "policy")
        assert type(refined.actor).__name__ == kind.split(".")[1]
        assert same(refined.actor.base.state_dict(), actor_weights(folders / "flow"))
        learned.append(getattr(refined.actor, kind.split(".")[0]).state_dict())
    assert not same(*learned)
    seen = {key: np.zeros((3, *shape), np.float32) for key, shape in SHAPES.items()}
    assert refined.act(seen).shape == (3, 2, 2)


def test_a_flow_alone_cannot_be_trained(folders, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        fit(config(folders, tmp_path / "run", "flow"))
    assert end.value.code == 1
    assert "policy.actors.steering.SteeringActor" in capsys.readouterr().err


def test_asks_for_the_number_of_iterations(folders, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        fit(config(folders, tmp_path / "run", iterations=-1), "--trainer.max_epochs", "1")
    assert end.value.code == 1
    assert "set max_steps to the number of iterations" in capsys.readouterr().err


def test_the_parameters_of_the_world_model_stay_as_they_are(folders):
    env = environment(folders)
    before = {name: w.clone() for name, w in env.model.network.state_dict().items()}
    heads = {name: w.clone() for name, w in env.model.heads.state_dict().items()}
    module = Refinement(str(folders / "policy"), env, steps=3)
    module.collector.restart(0)
    generator = torch.Generator().manual_seed(0)
    module.learner.update(module.collector.collect(3, generator), generator)
    assert same(before, env.model.network.state_dict())
    assert same(heads, env.model.heads.state_dict())


def environment(folders, **options):
    settings = {"num_envs": 4, "horizon": 6, "chunk": 2, "state": True, **options}
    return ImaginedVectorEnv(folders / "world", autoreset_mode="same_step", **settings)


CURRICULUM = {"class_path": "policy.curriculum.Curriculum", "init_args": {"memory": 0.9}}


def test_a_resumed_curriculum_goes_on_as_it_would_have(folders, tmp_path):
    reward = "--model.init_args.environment.init_args.reward"
    some_succeed = [reward, "worldmodel.rewards.LearnedSuccess"]
    some_succeed += [f"{reward}.threshold", "0.9", f"{reward}.unanimous", "false"]
    fit(config(folders, tmp_path / "whole", curriculum=CURRICULUM), *some_succeed)
    fit(config(folders, tmp_path / "parts", iterations=2, curriculum=CURRICULUM), *some_succeed)
    resumed = [*some_succeed, "--ckpt_path", "last"]
    fit(config(folders, tmp_path / "parts", curriculum=CURRICULUM), *resumed)
    whole, parts = (actor_weights(tmp_path / run / "policy") for run in ("whole", "parts"))
    assert same(whole, parts)
    last = [rows(tmp_path / run)[-1] for run in ("whole", "parts")]
    known = [name for name in last[0] if name.startswith("success_")]
    assert any(0 < float(last[0][name]) < 1 for name in known), "there is something to remember"
    assert [last[1][name] for name in known] == [last[0][name] for name in known]


def test_a_curriculum_chooses_where_episodes_begin(folders):
    env, curriculum = environment(folders, num_envs=16), Curriculum(least=1e-6)
    module = Refinement(str(folders / "policy"), env, steps=3, curriculum=curriculum)
    left = [number for number, task in enumerate(env.context_tasks) if task == "left"]
    curriculum.learn(Episodes(successes=[True] * len(left), contexts=left))
    module.collector.restart(0, {"context_weights": curriculum.context_weights()})
    episodes = module.collector.collect(3, torch.Generator().manual_seed(0)).episodes
    assert len(episodes.contexts) >= 16
    assert not set(episodes.contexts) & {-1, *left}


def test_a_curriculum_needs_stored_contexts_and_new_episodes(folders):
    simulator = gymnasium.make_vec("Pendulum-v1", num_envs=2)
    with pytest.raises(ValueError, match="no stored contexts"):
        _context_tasks(simulator, True)
    with pytest.raises(ValueError, match="restart: true"):
        Refinement(
            str(folders / "policy"), environment(folders), restart=False, curriculum=Curriculum()
        )


def test_a_deadline_needs_whole_episodes(folders, tmp_path, capsys):
    within = {"ppo": {"deadline": True, "discount": 1.0, "epochs": 1, "minibatches": 1}}
    fit(config(folders, tmp_path / "run", iterations=1, **within))
    assert (tmp_path / "run" / "policy").is_dir()
    with pytest.raises(SystemExit):
        fit(config(folders, tmp_path / "other", iterations=1, restart=False, **within))
    assert "ppo.deadline needs restart: true" in capsys.readouterr().err


def test_refuses_an_environment_of_another_chunk(folders):
    with pytest.raises(ValueError, match="chunk to 2"):
        Refinement(str(folders / "policy"), environment(folders, chunk=1))


def test_refuses_an_environment_that_does_not_show_what_is_needed(folders):
    with pytest.raises(ValueError, match="state=True"):
        Refinement(str(folders / "policy"), environment(folders, state=False))


def test_refuses_rollouts_that_end_before_the_episodes(folders):
    env = environment(folders, horizon=12)
    with pytest.raises(ValueError, match=r"Set model\.steps to 6"):
        Refinement(str(folders / "policy"), env, steps=5)
    Refinement(str(folders / "policy"), env, steps=5, restart=False)


def test_a_policy_that_sees_one_thing_takes_it_from_a_plain_box(tmp_path, folders):
    actor = GaussianActor({"latents": (1, 4, 8, 8)}, 2, chunk=2, **SMALL)
    shapes = {"latents": (1, 4, 8, 8)}
    replace(tiny_policy(), actor=actor, shapes=shapes).save_pretrained(tmp_path / "policy")
    for state in (False, True):
        module = Refinement(str(tmp_path / "policy"), environment(folders, state=state), steps=3)
        module.collector.restart(0)
        rollout = module.collector.collect(3, torch.Generator().manual_seed(0))
        assert set(rollout.observations) == set(rollout.reached) == {"latents"}


def test_a_world_model_that_changes_before_a_run_is_resumed_is_noticed(folders, tmp_path, capsys):
    world = tmp_path / "home" / "world"
    shutil.copytree(folders, tmp_path / "home")
    fit(config(tmp_path / "home", tmp_path / "run", iterations=1))
    (world / "note.txt").write_text("trained on")
    with pytest.raises(SystemExit):
        fit(config(tmp_path / "home", tmp_path / "run", iterations=2), "--ckpt_path", "last")
    assert "changed while it had to stay frozen" in capsys.readouterr().err
    assert len(rows(tmp_path / "run")) == 1


def test_a_folder_that_changes_is_noticed(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("1")
    watch = FrozenFolder(str(tmp_path / "model"))
    watch.on_fit_start(None, None)
    watch.on_train_end(None, None)
    (tmp_path / "model" / "weights").write_text("2")
    with pytest.raises(DatasetError, match="changed while it had to stay frozen"):
        watch.on_train_end(None, None)
    shutil.rmtree(tmp_path / "model")
    with pytest.raises(DatasetError, match="is no folder"):
        FrozenFolder(str(tmp_path / "model"))
