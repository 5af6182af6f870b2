"""What a recording consists of: sources, and the single episodes that they come to."""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from video.errors import DatasetError
from video.simulators.policies import Random, RecordingPolicy


@dataclass
class Source:
    """Episodes of one policy, in one or several environments.

    Args:
        policy: "random", or `class_path` and `init_args` of a `RecordingPolicy`.
        episodes: how many in every environment: a number, or one for every split, as in
            `{train: 20, test: 4}`.
        env: gymnasium ids; None takes those of the whole recording.
        label: the policy's name in the dataset; None describes it by its class and arguments.
    """

    policy: Literal["random"] | RecordingPolicy = "random"
    episodes: int | dict[str, int] = 10
    env: str | list[str] | None = None
    label: str | None = None

    def actor(self) -> RecordingPolicy:
        """The policy itself."""
        return Random() if self.policy == "random" else self.policy

    def description(self) -> str:
        """The policy's class, and its arguments that are no defaults."""
        policy = self.actor()
        fields = dataclasses.fields(policy) if dataclasses.is_dataclass(policy) else ()
        arguments = [
            f"{field.name}={getattr(policy, field.name)}"
            for field in fields
            if field.init and getattr(policy, field.name) != field.default
        ]
        return f"{type(policy).__name__}({', '.join(arguments)})"

    def policy_label(self) -> str:
        """What the dataset calls the policy."""
        return self.description() if self.label is None else self.label

    def as_json(self) -> dict[str, Any]:
        """What decides the episodes of this source."""
        label = {} if self.label is None else {"label": self.label}
        return {"policy": self.description(), "env": self.env, "episodes": self.episodes} | label


@dataclass(frozen=True)
class EpisodeJob:
    """One episode to record. Number and seed depend on the recipe only.

    Attributes:
        number: its id in the dataset's recording.
        seed: of environment and policy.
        env: gymnasium id.
        split: where it belongs.
        source: index of its source.
    """

    number: int
    seed: int
    env: str
    split: str
    source: int


def list_episodes(
    sources: Sequence[Source], env: str | list[str] | None, split: str, seed: int
) -> list[EpisodeJob]:
    """All episodes, one environment after the other, since making one takes a while.

    Args:
        sources: who acts how often.
        env: for the sources that name none.
        split: for the sources whose `episodes` is a number.
        seed: of the first episode; the following ones count up.

    Raises:
        DatasetError: there is no environment or no episode.
    """
    jobs = []
    for number, (name, split_name, source) in enumerate(_places(sources, env, split)):
        jobs.append(EpisodeJob(number, seed + number, name, split_name, source))
    if not jobs:
        raise DatasetError("Nothing to record: say --env ID and --episodes N, or give sources.")
    return jobs


def task_name(env: str) -> str:
    """A gymnasium id without namespace and version, as "drawer-open"."""
    return re.sub(r"^.*[:/]|-v\d+$", "", env)


def _places(
    sources: Sequence[Source], env: str | list[str] | None, split: str
) -> Iterator[tuple[str, str, int]]:
    envs = [_listed(env if source.env is None else source.env) for source in sources]
    for name in dict.fromkeys(name for names in envs for name in names):
        for index, source in enumerate(sources):
            if name in envs[index]:
                counts = source.episodes
                counts = {split: counts} if isinstance(counts, int) else counts
                for split_name, count in counts.items():
                    yield from [(name, split_name, index)] * count


def _listed(env: str | list[str] | None) -> list[str]:
    return [env] if isinstance(env, str) else env or []
