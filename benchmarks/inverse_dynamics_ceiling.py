"""The ceiling of inverse dynamics: how well actions can be read off the robot's true state.

    python benchmarks/inverse_dynamics_ceiling.py [--data DATASET] [--steps 1000] [--labels 0.1]

Trains the class of network that `configs/idm.yaml` trains, with the same windows and optimiser, on
the recorded robot state instead of latents, fits the kernel beside it, and prints one JSON line:
`r2` by dimension and `mean_r2_translation` on held-out episodes, of both together and of each
alone, `parameters`, `seconds`. What is missing to 1 cannot be seen in any video: a hand that lags
behind its commands, and commands that it could not follow.
"""

import argparse
import json
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from inverse_dynamics.losses import action_loss
from inverse_dynamics.movement_kernel import MovementKernel, movements, to_targets
from inverse_dynamics.network import ActionReader
from inverse_dynamics.scores import r2
from inverse_dynamics.windows import read_video
from video.episodes import open_dataset
from video.muon import Muon
from video.splits import keep_labels
from video.statistics import Normalizer

Table = list[tuple[Tensor, Tensor]]
"""State `(T, S)` and actions `(T-1, A)` of every episode."""


def main() -> None:
    """Train, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="video/datasets/metaworld")
    parser.add_argument("--split", default="train")
    parser.add_argument("--validation", default="video/datasets/metaworld_validation")
    parser.add_argument("--validation-split", default="validation")
    parser.add_argument("--window", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--learning-rate", type=float, default=0.02)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--labels", type=float, default=1.0, help="share of the episodes, 0 to 1")
    parser.add_argument("--kernel-steps", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if not 0 < options.labels <= 1:
        parser.error(f"--labels {options.labels:g} is no share of the episodes: above 0, at most 1")
    torch.set_flush_denormal(True)
    training = read(options.data, options.split, options.labels, options.seed)
    held_out = read(options.validation, options.validation_split)
    ranges = [Normalizer.fit(torch.cat(columns).numpy()) for columns in zip(*training, strict=True)]
    training, held_out = normalized(training, ranges), normalized(held_out, ranges)
    began = time.perf_counter()
    network = train(training, options)
    kernel = fit_kernel(training, network.kinds, options.kernel_steps)
    seconds = time.perf_counter() - began
    by_network = read_all(network, held_out, options.window)
    by_kernel = [kernel.read(state[None], network.kinds)[0] for state, _ in held_out]
    both = [(one + other) / 2 for one, other in zip(by_network, by_kernel, strict=True)]
    true = torch.cat([actions for _, actions in held_out])
    explained = {
        name: r2(torch.cat(read), true, network.kinds)
        for name, read in (("", both), ("_network", by_network), ("_kernel", by_kernel))
    }
    result = {
        **{f"r2{name}": found.tolist() for name, found in explained.items()},
        **{f"mean_r2_translation{n}": r[:3].mean().item() for n, r in explained.items()},
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "episodes": len(training),
        "steps": options.steps,
        "seconds": round(seconds, 1),
    }
    print(json.dumps(result))


def read(path: str, split: str, share: float = 1.0, seed: int = 0) -> Table:
    """State and actions of a share of a split's episodes, in the data's units."""
    dataset = open_dataset(path)
    table = []
    for episode in keep_labels(np.asarray(dataset.splits[split]), share, seed):
        rows = slice(dataset.starts[episode], dataset.starts[episode] + dataset.lengths[episode])
        state, actions = (np.array(dataset.columns[name][rows]) for name in ("state", "actions"))
        table.append((torch.from_numpy(state), torch.from_numpy(actions[:-1])))
    return table


def normalized(table: Table, ranges: list[Normalizer]) -> Table:
    """The same in [-1, 1]."""
    state, actions = ranges
    return [(state.normalize(seen), actions.normalize(done)) for seen, done in table]


def train(table: Table, options: argparse.Namespace) -> ActionReader:
    """As `InverseDynamicsTraining` does it."""
    torch.manual_seed(options.seed)
    size = table[0][1].shape[1]
    network = ActionReader([table[0][0].shape[1]], ["number"] * size, dropout=options.dropout)
    optimizer = Muon(network.parameters(), options.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1, (step + 1) / 50, (options.steps - step) / (0.6 * options.steps)),
    )
    generator = np.random.default_rng(options.seed)
    mask = torch.ones(options.batch_size, options.window - 1, 1, dtype=torch.bool)
    for _ in range(options.steps):
        clips = [clip(table, options.window, generator) for _ in range(options.batch_size)]
        states, actions = (torch.stack(part) for part in zip(*clips, strict=True))
        loss = action_loss(network(states).actions, actions, mask, network.kinds)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return network.eval()


def clip(table: Table, window: int, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A random window of a random episode, which must be as long."""
    state, actions = table[generator.integers(len(table))]
    start = int(generator.integers(max(1, len(state) - window + 1)))
    return state[start : start + window], actions[start : start + window - 1]


def fit_kernel(table: Table, kinds: Sequence[str], most: int) -> MovementKernel:
    """The kernel that is fitted at the end of `lightning fit -c configs/idm.yaml`."""
    features = torch.cat([movements(state[None])[0] for state, _ in table])
    targets = torch.cat([to_targets(actions, kinds) for _, actions in table])
    return MovementKernel.fit(features, targets, torch.ones(len(features)), most)


@torch.no_grad()
def read_all(network: ActionReader, table: Table, window: int) -> list[Tensor]:
    """The actions of every episode, read in overlapping windows as the model itself does."""
    readings = [read_video(network.read, state[None], window, network.kinds) for state, _ in table]
    return [reading.mean[0] for reading in readings]


if __name__ == "__main__":
    main()
