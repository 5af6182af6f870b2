"""How a step of an imagined episode ends: which of its frames counts, and what it was worth."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from worldmodel.imagination import ImaginedState, ImaginedStep
from worldmodel.rewards import Verdict


@dataclass
class Outcome:
    """The result of a step of a chunk of actions.

    Attributes:
        last: place in the chunk of the last frame that counts: that of the episode's end, or the
            chunk's own last.
        frame: that frame.
        robot: the robot's normalised state there.
        reward: sum over the frames that count.
        success: whether one of them is a success.
        terminated: the episode ended with a success.
        truncated: it ended at the horizon, without being terminated.
        elapsed: steps since its start.
        uncertainty: of the most uncertain frame that counts; None without heads.
    """

    last: Int64[Tensor, " rows"]
    frame: Float[Tensor, "rows views channels height width"]
    robot: Float[Tensor, "rows state_dim"]
    reward: Float[Tensor, " rows"]
    success: Bool[Tensor, " rows"]
    terminated: Bool[Tensor, " rows"]
    truncated: Bool[Tensor, " rows"]
    elapsed: Int64[Tensor, " rows"]
    uncertainty: Float[Tensor, " rows"] | None

    def figures(self) -> dict[str, Tensor]:
        """Everything that is one number a row."""
        figures = {
            "reward": self.reward,
            "terminated": self.terminated,
            "truncated": self.truncated,
            "success": self.success,
            "elapsed_steps": self.elapsed,
        }
        if self.uncertainty is not None:
            figures["uncertainty"] = self.uncertainty
        return figures

    def shown(self, state: ImaginedState) -> ImaginedState:
        """The state with what is seen of it where the episode ended within the chunk."""
        return replace(state, frame=self.frame, robot=self.robot, elapsed=self.elapsed)


@torch.inference_mode()
def outcome_of(
    step: ImaginedStep, verdict: Verdict, horizon: int, terminate_on_success: bool
) -> Outcome:
    """End the episode with its first success, or at the horizon.

    A success in the horizon's very step terminates: what is true of the state goes before what is
    only true of the clock.

    Args:
        step: what was imagined.
        verdict: what its frames are worth.
        horizon: steps that an episode may have.
        terminate_on_success: whether a success is an end.

    Raises:
        ValueError: a verdict that does not judge every frame, once.
    """
    shape = step.frames.shape[:2]
    for name, value in zip(("reward", "success"), verdict, strict=True):
        if value.shape != shape or (value.dtype == torch.bool) != (name == "success"):
            raise ValueError(
                f"the reward model's {name} is {value.dtype} {tuple(value.shape)}, expected "
                f"{'bool' if name == 'success' else 'float'} {tuple(shape)}: one for each frame"
            )
    chunk = step.frames.shape[1]
    place = torch.arange(chunk, device=step.frames.device)
    elapsed = step.elapsed[:, None] + place + 1
    succeeds = verdict.success if terminate_on_success else torch.zeros_like(verdict.success)
    ends = succeeds | (elapsed >= horizon) | (place == chunk - 1)
    last = ends.to(torch.uint8).argmax(dim=1)
    counts = place <= last[:, None]
    row = torch.arange(len(last), device=last.device)
    terminated = succeeds[row, last]
    uncertainty = None
    if step.outputs is not None:
        uncertainty = step.outputs.error.masked_fill(~counts, 0).amax(dim=1)
    return Outcome(
        last=last,
        frame=step.frames[row, last],
        robot=step.robot[row, last],
        reward=verdict.reward.masked_fill(~counts, 0).sum(dim=1),
        success=(verdict.success & counts).any(dim=1),
        terminated=terminated,
        truncated=(elapsed[row, last] >= horizon) & ~terminated,
        elapsed=elapsed[row, last],
        uncertainty=uncertainty,
    )
