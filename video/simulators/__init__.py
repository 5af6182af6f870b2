"""Simulators to record from, as gymnasium environments, and policies that act in them.

Importing this package registers every Meta-World task as `metaworld/<task>`. For the longer id
`video.simulators:metaworld/<task>` gymnasium imports it by itself (it gave up plug-in entry points
with version 1.0). The simulator is only imported when an environment is made.
"""

from gymnasium.envs.registration import register, registry

METAWORLD_TASKS = (
    "assembly-v3",
    "basketball-v3",
    "bin-picking-v3",
    "box-close-v3",
    "button-press-topdown-v3",
    "button-press-topdown-wall-v3",
    "button-press-v3",
    "button-press-wall-v3",
    "coffee-button-v3",
    "coffee-pull-v3",
    "coffee-push-v3",
    "dial-turn-v3",
    "disassemble-v3",
    "door-close-v3",
    "door-lock-v3",
    "door-open-v3",
    "door-unlock-v3",
    "drawer-close-v3",
    "drawer-open-v3",
    "faucet-close-v3",
    "faucet-open-v3",
    "hammer-v3",
    "hand-insert-v3",
    "handle-press-side-v3",
    "handle-press-v3",
    "handle-pull-side-v3",
    "handle-pull-v3",
    "lever-pull-v3",
    "peg-insert-side-v3",
    "peg-unplug-side-v3",
    "pick-out-of-hole-v3",
    "pick-place-v3",
    "pick-place-wall-v3",
    "plate-slide-back-side-v3",
    "plate-slide-back-v3",
    "plate-slide-side-v3",
    "plate-slide-v3",
    "push-back-v3",
    "push-v3",
    "push-wall-v3",
    "reach-v3",
    "reach-wall-v3",
    "shelf-place-v3",
    "soccer-v3",
    "stick-pull-v3",
    "stick-push-v3",
    "sweep-into-v3",
    "sweep-v3",
    "window-close-v3",
    "window-open-v3",
)
METAWORLD_EPISODE_STEPS = 125
"""Meta-World's own limit of 500 simulator steps, at the default action repeat of 4."""


def register_metaworld() -> None:
    """Register `metaworld/<task>` for every task; again is harmless."""
    for task in METAWORLD_TASKS:
        if f"metaworld/{task}" not in registry:
            register(
                f"metaworld/{task}",
                entry_point="video.simulators.metaworld_env:MetaWorldEnv",
                kwargs={"task": task},
                max_episode_steps=METAWORLD_EPISODE_STEPS,
            )


register_metaworld()
