"""`python -m policy evaluate`: how often a policy succeeds, in reality and in imagination.

Both environments come in by `class_path`; any `gymnasium.vector.VectorEnv` will do. Where both are
given, imagined episodes begin with the very frames and states that the real ones began with.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from policy.described import load_policy, results_of
from policy.episodes import Acting, Played, PlayedEpisode, play
from policy.evaluation_pictures import write_pictures
from policy.intervals import fixed_and_broken, wilson
from policy.model import Policy, steps_of
from policy.truth import agreement
from video.errors import DatasetError
from video.safe_files import write_json

REAL, IMAGINED = "real", "imagined"


def evaluate(
    policy: Path,
    real: VectorEnv | None = None,
    imagined: VectorEnv | None = None,
    episodes: int = 90,
    seed: int = 300000,
    before: Path | None = None,
    out: Path | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Measure a policy: success rates with intervals, by environment and task, and its videos.

    Args:
        policy: folder of a saved policy, or a YAML file that puts one together.
        real: the real environment, by class_path and init_args, such as
            `policy.real.RealVectorEnv`.
        imagined: the imagined environment; beside a real one its episodes begin where the real
            ones do.
        episodes: how many in each environment.
        seed: of the first episode; those behind it count up. Every policy that is evaluated with
            the same seeds meets the same episodes.
        before: another policy to compare with on the same seeds: which episodes it fails are fixed,
            which it solves are broken?
        out: JSON file to write; evaluation.json beside a saved policy's folder by default, in
            runs/NAME for NAME.yaml. Videos and pictures lie beside it.
        device: where a saved policy computes.

    Returns:
        What the JSON file holds.
    """
    envs = {name: env for name, env in ((REAL, real), (IMAGINED, imagined)) if env is not None}
    if episodes < 1:
        raise DatasetError(f"--episodes {episodes} must be at least 1")
    if not envs:
        raise DatasetError(
            "no environment to evaluate in: pass --config configs/evaluate.yaml, or name one by "
            "--real.class_path or --imagined.class_path"
        )
    loaded = _checked(policy, envs, device)
    earlier = None if before is None else _checked(before, envs, device)
    seeds = range(seed, seed + episodes)
    try:
        played = play_everywhere(loaded, envs, seeds)
        earlier_played = None if earlier is None else play_everywhere(earlier, envs, seeds)
    finally:
        for env in envs.values():
            env.close()
    result: dict[str, Any] = {"policy": str(policy), "seed": seed}
    for name, found in played.items():
        result[name] = measure(found.episodes)
        if earlier_played is not None:
            result[name] |= difference(earlier_played[name].episodes, found.episodes)
    if IMAGINED in played and REAL in played and played[REAL].starts:
        result["agreement"] = agreement(
            *(np.array([e.success for e in played[name].episodes]) for name in (IMAGINED, REAL))
        )
    if before is not None:
        result["before"] = str(before)
    out = out or results_of(policy) / "evaluation.json"
    write_json(out, result)
    shown = next(iter(envs.values()))
    rate = shown.metadata.get("render_fps") or 10 / steps_of(shown)
    written = write_pictures(out.parent, played, rate)
    print(table(result))
    for path in (out, *written):
        print(f"wrote {path}")
    return result


def check(policy: Acting, envs: dict[str, VectorEnv]) -> None:
    """Make sure that a policy can act in all environments; one that cannot tell is believed.

    Raises:
        DatasetError: observations, actions or latents that it was not trained with.
    """
    if not isinstance(policy, Policy):
        return
    for name, env in envs.items():
        try:
            policy.check(env)
        except ValueError as error:
            raise DatasetError(f"the policy and the {name} environment: {error}") from error


def play_everywhere(
    policy: Acting, envs: dict[str, VectorEnv], seeds: Sequence[int]
) -> dict[str, Played]:
    """Play the same episodes in every environment.

    Args:
        policy: who acts.
        envs: by the names "real" and "imagined". An imagined one beside a real one starts where
            that started, if that is made with `render_mode="rgb_array"`.
        seeds: an episode for each.
    """
    played: dict[str, Played] = {}
    if REAL in envs:
        played[REAL] = play(policy, envs[REAL], seeds)
    if IMAGINED in envs:
        starts, tasks = None, None
        if REAL in played and played[REAL].starts:
            starts = played[REAL].starts
            tasks = [episode.task for episode in played[REAL].episodes]
        played[IMAGINED] = play(policy, envs[IMAGINED], seeds, starts, tasks)
    return played


def measure(episodes: Sequence[PlayedEpisode]) -> dict[str, Any]:
    """Figures of all episodes, of each task, and the episodes themselves."""
    tasks = sorted({episode.task for episode in episodes if episode.task})
    return {
        **_figures(episodes),
        "tasks": {task: _figures([e for e in episodes if e.task == task]) for task in tasks},
        "each": [episode.to_json() for episode in episodes],
    }


def difference(before: Sequence[PlayedEpisode], after: Sequence[PlayedEpisode]) -> dict[str, Any]:
    """What changed on the same seeds, in all and by task."""

    def changes(task: str | None) -> dict[str, Any]:
        chosen = [n for n, e in enumerate(after) if task in (None, e.task)]
        was = np.array([before[n].success for n in chosen], bool)
        now = np.array([after[n].success for n in chosen], bool)
        fixed, broken = fixed_and_broken(was, now)
        return {"success_before": float(was.mean()), "fixed": fixed, "broken": broken}

    tasks = sorted({episode.task for episode in after if episode.task})
    return {"change": changes(None) | {"tasks": {task: changes(task) for task in tasks}}}


def table(result: dict[str, Any]) -> str:
    """The figures as text for a terminal."""
    lines = [
        f"{'':<28}{'success':>9}{'95 % interval':>17}{'return':>9}{'steps':>7}{'episodes':>10}"
    ]
    for name in (REAL, IMAGINED):
        for task, figures in _rows(result.get(name)):
            low, high = figures["interval"]
            lines.append(
                f"{f'{name}, {task}'[:27]:<28}{figures['success']:>9.1%}"
                f"{f'{low:.1%} - {high:.1%}':>17}{figures['return']:>9.2f}{figures['steps']:>7.1f}"
                f"{figures['episodes']:>10}"
            )
        change = (result.get(name) or {}).get("change")
        if change:
            lines.append(
                f"{f'{name}, before':<28}{change['success_before']:>9.1%}   "
                f"{change['fixed']} fixed, {change['broken']} broken"
            )
    if "agreement" in result:
        lines.append(agreement_as_text(result["agreement"]))
    return "\n".join(lines)


def agreement_as_text(found: dict[str, float]) -> str:
    """Whether single episodes end alike, as a line."""
    return (
        "{same_outcome:.0%} of the episodes end alike; imagined to succeed: {imagined_to_succeed} "
        "of {real_failures} real failures, to fail: {imagined_to_fail} of {real_successes} real "
        "successes".format(**found)
    )


def _rows(measured: dict[str, Any] | None) -> list[tuple[str, dict[str, Any]]]:
    return [] if measured is None else [("all", measured), *measured["tasks"].items()]


def _figures(episodes: Sequence[PlayedEpisode]) -> dict[str, Any]:
    successes = sum(episode.success for episode in episodes)
    return {
        "success": successes / len(episodes),
        "interval": list(wilson(successes, len(episodes))),
        "return": float(np.mean([episode.total for episode in episodes])),
        "steps": float(np.mean([episode.steps for episode in episodes])),
        "episodes": len(episodes),
    }


def _checked(path: Path, envs: dict[str, VectorEnv], device: str) -> Policy:
    """A policy that can act in these environments."""
    policy = load_policy(path, device)
    try:
        check(policy, envs)
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from error
    return policy
