"""What is told of a step beside the observations: `info` in the form that gymnasium gives it.

An array with a row an environment, and a mask `_key` of the environments that it is true of.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int64

from worldmodel.outcome import Outcome
from worldmodel.round_trip import RoundTripErrors

Info = dict[str, Any]
Truths = Bool[np.ndarray, " num_envs"]


def tell(
    outcome: Outcome, round_trip: RoundTripErrors | None
) -> tuple[Info, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Bring a step's figures to the host, all at once: info, and reward and both ends."""
    figures = {**outcome.figures()}
    if round_trip is not None:
        figures["round_trip_error"] = round_trip.error
        figures["round_trip_drift"] = round_trip.drift
        figures["judged"] = round_trip.judged
    table = torch.stack([value.float() for value in figures.values()]).cpu().numpy()
    told = dict(zip(figures, table, strict=True))
    reward = told.pop("reward").astype(np.float64)
    terminated, truncated = (told.pop(name) > 0 for name in ("terminated", "truncated"))
    told["success"] = told["success"] > 0
    told["elapsed_steps"] = told["elapsed_steps"].astype(np.int64)
    judged = told.pop("judged", None)
    info: Info = dict(told)
    info |= {f"_{name}": np.ones(len(reward), bool) for name in told}
    if judged is not None:
        info["_round_trip_error"] = judged > 0
    return info, (reward, terminated, truncated)


def masked(info: Info, mask: Truths) -> Info:
    """The info of the environments in the mask, untold of the others."""
    told: Info = {}
    for key in names(info):
        told[key] = np.where(mask, info[key], np.zeros_like(info[key]))
        told[f"_{key}"] = mask & info[f"_{key}"]
    return told


def names(info: Info) -> list[str]:
    """What is told of, without the masks."""
    return [key for key in info if not key.startswith("_")]


def of_reset(
    context: Int64[np.ndarray, " chosen"], which: Int64[np.ndarray, " chosen"], num_envs: int
) -> Info:
    """The info of a reset: the context that each of these environments starts from."""
    spread, mask = np.zeros(num_envs, context.dtype), np.zeros(num_envs, bool)
    spread[which], mask[which] = context, True
    return {"context": spread, "_context": mask}


def with_final(info: Info, observations: Any, over: Truths) -> Info:
    """The info with what ended in this very step: `final_obs` and `final_info`."""
    final = np.full(len(over), None, dtype=object)
    for i in np.flatnonzero(over):
        final[i] = row(observations, int(i))
    return masked(info, ~over) | {
        "final_obs": final,
        "_final_obs": over.copy(),
        "final_info": masked(info, over),
        "_final_info": over.copy(),
    }


def row(observations: Any, index: int) -> Any:
    """One environment's observation."""
    if isinstance(observations, dict):
        return {name: values[index] for name, values in observations.items()}
    return observations[index]
