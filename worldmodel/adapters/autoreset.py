"""Which of gymnasium's autoreset modes an RL library needs, and what to say to any other."""

from gymnasium.vector import AutoresetMode, VectorEnv


def require_autoreset_mode(env: VectorEnv, needed: AutoresetMode, library: str) -> None:
    """Refuse an environment that resets at other times than a library expects.

    Args:
        env: declares its mode in `metadata["autoreset_mode"]`, as gymnasium asks.
        needed: the one mode that will do.
        library: named in the error.

    Raises:
        TypeError: no vector environment.
        ValueError: another mode, or none declared.
    """
    if not isinstance(env, VectorEnv):
        raise TypeError(
            f"{env!r} is no gymnasium.vector.VectorEnv. Make one with `gymnasium.make_vec(...)`; "
            "it may have num_envs=1."
        )
    mode = env.metadata.get("autoreset_mode")
    if mode != needed:
        raise ValueError(
            f"{env!r} has the autoreset mode {mode}, but {library} needs {needed}. Make an "
            f'imagined environment with autoreset_mode="{needed.name.lower()}", one of '
            f"gymnasium's own with autoreset_mode=gymnasium.vector.{needed}."
        )
