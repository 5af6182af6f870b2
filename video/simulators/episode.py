"""One episode in a gymnasium environment, as rows of frames, actions and observations."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from video.episodes import Episode
from video.errors import DatasetError
from video.simulators.policies import RecordingPolicy


def record_episode(
    env: gymnasium.Env, policy: RecordingPolicy, length: int, seed: int, camera: str = "main"
) -> Episode:
    """Reset an environment with `seed` and let a policy act in it for `length` steps.

    Row t is the frame before action t, the action, the observation it was chosen from, and reward
    and success of that step. Success does not end the episode; where the environment itself ends
    it, the episode is shorter. Continuous actions are clipped to the environment's bounds and
    flattened; discrete ones become the number itself, as one float.

    The state comes from `agent_pos` of a dictionary observation, or is the observation itself where
    that is a vector; `environment_state` from the key of that name. Success is `info["success"]` or
    `info["is_success"]`.

    Args:
        env: makes frames by `render()`.
        policy: who acts.
        length: most steps.
        seed: decides the whole episode: the environment's is this one, the policy's made from it.
        camera: the name for the frames.

    Raises:
        DatasetError: `render()` gives no uint8 `(H, W, 3)` picture.
    """
    observation, info = env.reset(seed=seed)
    policy.reset(env, _policy_seed(seed))
    rows: dict[str, list[Any]] = {}
    for _ in range(length):
        _append(rows, observed(observation))
        _append(rows, {"frames": _frame(env)})
        action = _clipped(policy(observation, info), env.action_space)
        observation, reward, terminated, truncated, info = env.step(action)
        _append(rows, {"actions": _as_vector(action), "reward": np.float32(reward)})
        success = info.get("success", info.get("is_success"))
        if success is not None:
            _append(rows, {"success": bool(success)})
        if terminated or truncated:
            break
    columns = {name: np.array(values) for name, values in rows.items()}
    return Episode(
        frames={camera: columns["frames"]},
        actions=columns["actions"],
        state=columns.get("state"),
        environment_state=columns.get("environment_state"),
        reward=columns["reward"],
        success=columns.get("success"),
    )


def _policy_seed(seed: int) -> int:
    """Another seed: with the same one, a policy's noise would follow the places of the objects."""
    return int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])


def _append(rows: dict[str, list[Any]], row: dict[str, Any]) -> None:
    for name, value in row.items():
        rows.setdefault(name, []).append(value)


def _frame(env: gymnasium.Env) -> np.ndarray:
    frame = env.render()
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.shape[2:] != (3,):
        what = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else f"{frame!r:.80}"
        raise DatasetError(
            f"{env.unwrapped}: render() gave {what} instead of a uint8 (H, W, 3) picture. "
            "It must be made with render_mode='rgb_array'."
        )
    return frame


def observed(observation: Any) -> dict[str, np.ndarray]:
    """What an observation tells beside pictures: "state" and "environment_state", float32."""
    if isinstance(observation, dict):
        names = {"agent_pos": "state", "environment_state": "environment_state"}
        return {
            name: _as_vector(observation[key]) for key, name in names.items() if key in observation
        }
    if np.ndim(observation) == 1:
        return {"state": _as_vector(observation)}
    return {}  # pictures are recorded by render()


def _clipped(action: Any, space: gymnasium.Space) -> Any:
    if isinstance(space, spaces.Box):
        return np.clip(np.asarray(action, space.dtype), space.low, space.high)
    return action


def _as_vector(values: Any) -> np.ndarray:
    return np.asarray(values, np.float32).reshape(-1)
