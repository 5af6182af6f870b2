"""The gate before a refinement: is the imagined environment fit to refine a policy in?

Two questions whose answers say more than any score of the pictures. Do recorded failures, replayed
in imagination, stay failures? And does the policy succeed there as often as it does in reality?
RL finds whatever the imagination gets wrong in its favour.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import lightning as L
import numpy as np
from gymnasium.vector import VectorEnv
from jaxtyping import Bool, Float
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from policy.episodes import Acting
from policy.evaluate import IMAGINED, REAL, check, play_everywhere
from policy.model import Policy, as_actions, steps_of
from policy.rollout import told
from video.episodes import EpisodeDataset, open_dataset
from video.errors import DatasetError, SimulatorMissing
from video.safe_files import write_json


@dataclass
class Recording:
    """How a recorded episode began, and what was done in it.

    Attributes:
        context: its first frame, uint8 `(1, V, H, W, 3)`.
        state: the robot's there; None where the data have none.
        actions: all of them, in the data's units.
    """

    context: np.ndarray
    state: np.ndarray | None
    actions: Float[np.ndarray, "steps action_dim"]


@dataclass
class GateResult:
    """What the gate found.

    Attributes:
        failures: recorded failures that were replayed.
        false_successes: those that became successes.
        most_false: share of them that passes.
        imagined_success: of the policy that is to be refined.
        real_success: of the same policy; None if that is not known.
        tolerance: difference of the two that passes.
    """

    failures: int
    false_successes: int
    most_false: float
    imagined_success: float
    real_success: float | None
    tolerance: float

    @property
    def problems(self) -> list[str]:
        """What does not pass, and what to do about it."""
        found = []
        if self.false_successes > self.most_false * self.failures:
            found.append(
                f"{self.false_successes} of {self.failures} recorded failures become successes "
                f"when they are replayed, more than {self.most_false:.0%}. Train the world model "
                "and its heads on more failures and near misses, or demand more certainty of a "
                "success."
            )
        if self.real_success is not None:
            apart = abs(self.imagined_success - self.real_success)
            if apart > self.tolerance:
                found.append(
                    f"the policy succeeds in {self.imagined_success:.0%} of the imagined and in "
                    f"{self.real_success:.0%} of the real episodes, which is further apart than "
                    f"{self.tolerance:.0%}. Train the world model and its heads on episodes of "
                    "this policy."
                )
        return found

    def __str__(self) -> str:
        """The verdict in a few lines."""
        known = "not measured" if self.real_success is None else f"{self.real_success:.0%}"
        figures = (
            f"replayed failures that succeed: {self.false_successes} of {self.failures}; success "
            f"of the policy: imagined {self.imagined_success:.0%}, real {known}"
        )
        if not self.problems:
            return f"Gate passed. {figures}."
        return "\n- ".join([f"GATE FAILED. {figures}.", *self.problems])


class Gate(L.Callback):
    """Looks before a refinement whether it can be trusted, says so, and writes gate.json.

    It does not stop the run: what a failed gate means for the result is for people to judge.

    Args:
        failures: dataset, or several, with failed episodes that neither the world model nor its
            heads were trained on; not those, either, that the threshold of success was fitted to.
        split: of each.
        tasks: of these tasks only.
        most_false: share of the replayed failures that may become successes.
        real_success: of the policy, if it was measured before.
        real_environment: makes the one to measure it in otherwise; with `render_mode="rgb_array"`
            the imagined episodes begin where the real ones do. Where there is no simulator, a
            warning says so, and the second question stays open.
        tolerance: difference between imagined and real success that passes.
        episodes: of the policy in each environment.
        seed: of the first of them.

    Raises:
        DatasetError: there is no such dataset.
        ValueError: a share that is none.
    """

    def __init__(
        self,
        failures: str | list[str],
        split: str = "test",
        tasks: list[str] | None = None,
        most_false: float = 0.1,
        real_success: float | None = None,
        real_environment: Callable[[], VectorEnv] | None = None,
        tolerance: float = 0.15,
        episodes: int = 128,
        seed: int = 900000,
    ):
        for name, share in (("most_false", most_false), ("real_success", real_success)):
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"{name}={share} must lie in [0, 1]")
        paths = [failures] if isinstance(failures, str) else failures
        self.datasets = [open_dataset(path) for path in paths]
        self.split, self.tasks = split, tasks
        self.most_false, self.tolerance = most_false, tolerance
        self.real_success, self.real_environment = real_success, real_environment
        self.seeds = range(seed, seed + episodes)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Try the module's `environment` and its `cloned` policy, unless the run is resumed."""
        if trainer.global_step > 0:  # the policy is another by now; the verdict stands
            return
        environment, policy = pl_module.environment, pl_module.cloned
        assert isinstance(environment, VectorEnv)
        assert isinstance(policy, Policy)
        result = self.try_out(policy, environment)
        (rank_zero_warn if result.problems else rank_zero_info)(str(result))
        if trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False):
            saved = asdict(result) | {"problems": result.problems}
            write_json(Path(trainer.default_root_dir) / "gate.json", saved)

    def try_out(self, policy: Acting, environment: VectorEnv) -> GateResult:
        """Ask both questions.

        Args:
            policy: that is to be refined.
            environment: the imagined one; its `reset` takes the options "context" and "state".

        Raises:
            DatasetError: a real environment that the policy cannot act in, or no failure to replay.
        """
        envs, known = {IMAGINED: environment}, self.real_success
        simulator = self._simulator()
        try:
            if simulator is not None:
                check(policy, {REAL: simulator})
                envs[REAL] = simulator
            recordings = failed_recordings(self.datasets, self.split, self.tasks)
            false = replayed_successes(environment, recordings)
            played = play_everywhere(policy, envs, self.seeds)
        finally:
            if simulator is not None:
                simulator.close()
        episodes = played[IMAGINED].episodes
        if REAL in played:
            known = float(np.mean([episode.success for episode in played[REAL].episodes]))
        return GateResult(
            failures=len(false),
            false_successes=int(false.sum()),
            most_false=self.most_false,
            imagined_success=float(np.mean([episode.success for episode in episodes])),
            real_success=known,
            tolerance=self.tolerance,
        )

    def _simulator(self) -> VectorEnv | None:
        """The real environment, if it is wanted and there."""
        if self.real_environment is None or self.real_success is not None:
            return None
        try:
            return self.real_environment()
        except SimulatorMissing as error:
            rank_zero_warn(f"the gate does not know how the policy does in reality: {error}")
            return None


def failed_recordings(
    datasets: Sequence[EpisodeDataset], split: str, tasks: Sequence[str] | None = None
) -> list[Recording]:
    """Episodes without any success, of which all actions are known.

    Raises:
        DatasetError: a dataset without such a split or without a recorded success, or no failure in
            any of them.
    """
    found = [one for dataset in datasets for one in _failures(dataset, split, tasks)]
    if not found:
        raise DatasetError(
            f"{', '.join(str(dataset.path) for dataset in datasets)}: no failed episode in split "
            f"{split!r}{'' if tasks is None else f' of {list(tasks)}'}, so the gate has nothing to "
            "replay. Record some, with a policy that fails."
        )
    return found


def _failures(
    dataset: EpisodeDataset, split: str, tasks: Sequence[str] | None
) -> Iterator[Recording]:
    if split not in dataset.splits or not {"success", "actions"} <= set(dataset.columns):
        raise DatasetError(
            f"{dataset.path} has the splits {sorted(dataset.splits)} and the columns "
            f"{sorted(dataset.columns)}; the gate replays failures of split {split!r} and needs "
            "'actions' and 'success'. Name another dataset or split."
        )
    for episode in dataset.splits[split]:
        start = int(dataset.starts[episode])
        rows = slice(start, start + int(dataset.lengths[episode]) - 1)
        known = dataset.columns.get("action_mask")
        if dataset.columns["success"][rows].any() or (known is not None and not known[rows].all()):
            continue
        if tasks is not None and dataset.tasks[episode] not in tasks:
            continue
        views = [
            dataset.read_frames(int(episode), np.zeros(1, int), camera)
            for camera in dataset.cameras
        ]
        state = dataset.columns["state"][start] if "state" in dataset.columns else None
        actions = dataset.columns["actions"][rows].astype(np.float32)
        yield Recording(np.stack(views, axis=1), state, actions)


def replayed_successes(
    environment: VectorEnv, recordings: Sequence[Recording]
) -> Bool[np.ndarray, " episodes"]:
    """Which recordings succeed when their actions are taken in an environment.

    An environment that takes several actions at a time leaves out what is left over at the end.

    Args:
        environment: its `reset` takes the options "context" and "state".
        recordings: of the same cameras.
    """
    number, steps = environment.num_envs, steps_of(environment)
    success = np.zeros(len(recordings), bool)
    for first in range(0, len(recordings), number):
        batch = [recordings[min(first + i, len(recordings) - 1)] for i in range(number)]
        environment.reset(seed=first, options=_options(environment, batch))
        length = np.array([len(recording.actions) // steps for recording in batch])
        going, won = np.ones(number, bool), np.zeros(number, bool)
        for turn in range(length.max()):
            going &= turn < length
            chunks = [_chunk(recording.actions, turn, steps) for recording in batch]
            *_, terminated, truncated, info = environment.step(
                as_actions(np.stack(chunks), environment)
            )
            won |= going & (told(info, "success", number) > 0)
            going &= ~(terminated | truncated)
            if not going.any():
                break
        success[first : first + number] = won[: len(recordings) - first]
    return success


def _chunk(
    actions: Float[np.ndarray, "steps action_dim"], turn: int, steps: int
) -> Float[np.ndarray, "chunk action_dim"]:
    """The actions of one turn; behind the end the last one, which no longer counts."""
    rows = np.minimum(np.arange(turn * steps, (turn + 1) * steps), len(actions) - 1)
    return actions[rows]


def _options(environment: VectorEnv, batch: Sequence[Recording]) -> dict:
    """Options of a reset that begins where the recordings did."""
    options: dict = {"context": [recording.context for recording in batch]}
    if "state" in getattr(environment.single_observation_space, "spaces", {}):
        options["state"] = np.stack([recording.state for recording in batch])  # pyright: ignore
    return options
