"""The imagined environment without its gymnasium: states, actions, and what is seen of a step.

A batch of imagined episodes is a value (`ImaginedState`), a step a function of it and the actions.
Nothing is decoded here, nothing waits for the host, and no gradient reaches the world model.
`environment.py` wraps this for gymnasium.
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from worldmodel.heads import FrameOutputs
from worldmodel.rollout import advance
from worldmodel.rollout_state import RolloutState, start
from worldmodel.rows import put
from worldmodel.uwm import UWM
from worldmodel.world_model import WorldModel

Precision = Literal["float32", "bfloat16"]


@dataclass
class ImaginedState:
    """Where N imagined episodes stand.

    Attributes:
        rollout: the world model's part.
        frame: the latest frame.
        robot: the robot's state there, normalised; S = 0 where the model does not know it. A model
            that goes by states foretells it, for another its heads read it off the frame.
        elapsed: steps (actions) since the episode's start.
    """

    rollout: RolloutState
    frame: Float[Tensor, "rows views channels height width"]
    robot: Float[Tensor, "rows state_dim"]
    elapsed: Int64[Tensor, " rows"]


@dataclass
class ImaginedStep:
    """What a chunk of c actions led to: all that a reward may depend on.

    Attributes:
        model: the world model, to encode a goal or decode a frame with.
        previous: the frames before the chunk.
        frames: those that it led to.
        actions: in the data's units.
        elapsed: steps since the episode's start, before the chunk.
        outputs: what the model's heads say of each frame; None for a model without.
        robot: the robot's state in each frame, normalised: foretold where the model goes by states,
            else what the heads read off it; S = 0 where neither is known.
    """

    model: WorldModel
    previous: Float[Tensor, "rows views channels height width"]
    frames: Float[Tensor, "rows chunk views channels height width"]
    actions: Float[Tensor, "rows chunk action_dim"]
    elapsed: Int64[Tensor, " rows"]
    outputs: FrameOutputs | None
    robot: Float[Tensor, "rows chunk state_dim"]

    def pixels(self) -> UInt8[Tensor, "rows chunk views 3 height width"]:
        """The frames, decoded. Slow: most of a step's time goes there if this is asked for."""
        return self.model.decode(self.frames)


class Imagination:
    """A frozen world model as a step function over batches of episodes.

    Args:
        model: the world model.
        chunk: actions, and frames, of a step; a divisor of the model's block.
        steps: sampler steps.
        dtype: of the network's arithmetic; everything that comes out is float32.
        compile: compile the network (`torch.compile`).

    Raises:
        ValueError: a chunk that does not divide the block, or a model that never saw an action.
    """

    def __init__(
        self,
        model: WorldModel,
        chunk: int = 1,
        steps: int = 1,
        dtype: Precision = "float32",
        compile: bool = False,
    ):
        size = model.network.block_frames
        if chunk < 1 or size % chunk:
            raise ValueError(f"chunk={chunk} does not divide the model's block of {size} frames")
        if steps < 1:
            raise ValueError(f"steps={steps}: the sampler needs at least one step")
        if dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype={dtype!r}: use 'float32' or 'bfloat16'")
        if model.action_normalizer is None:
            raise ValueError(
                "this world model was trained without any actions, so it cannot be acted in. Train "
                "it on at least one labelled dataset."
            )
        self.model = model
        self.chunk = chunk
        self.steps = steps
        self.dtype = getattr(torch, dtype)
        self.network = _in_precision(model.network, self.dtype)
        self.heads = model.heads  # in their own precision: they are too small to gain by another
        if compile:
            self.network.compile()

    @property
    def device(self) -> torch.device:
        """Where everything is."""
        return self.network.device

    @property
    def state_dim(self) -> int:
        """Dimensions of the robot's state that is foretold, 0 for none."""
        return self.model.state_dim

    @torch.inference_mode()
    def start(
        self,
        context: Float[Tensor, "rows frames views channels height width"],
        seed: Int64[Tensor, " rows"],
        robot: Float[Tensor, "rows state_dim"] | None = None,
    ) -> ImaginedState:
        """Begin episodes behind encoded context frames.

        Args:
            context: latents of at least one real frame.
            seed: of each episode's noise.
            robot: the robot's normalised state in the last of them, NaN where unknown; None:
                unknown. What is unknown shows as 0 there.
        """
        context, rows = context.to(self.device), len(context)
        if robot is None:
            robot = torch.full((rows, self.state_dim), torch.nan)
        return ImaginedState(
            rollout=start(self.network, context.float(), seed, self.chunk, robot),
            frame=context[:, -1].float(),
            robot=robot.to(self.device).nan_to_num(0.0),
            elapsed=torch.zeros(rows, dtype=torch.long, device=self.device),
        )

    @torch.inference_mode()
    def step(
        self, state: ImaginedState, actions: Float[Tensor, "rows chunk action_dim"]
    ) -> tuple[ImaginedStep, ImaginedState]:
        """Take a chunk of actions, in the data's units, in every episode."""
        normalizer = self.model.action_normalizer
        assert normalizer is not None
        given = actions.to(self.device, torch.float32)
        step = advance(self.network, state.rollout, normalizer.normalize(given), steps=self.steps)
        frames, outputs = step.frames.float(), None
        if self.heads is not None:
            outputs = self._judge(step.features, step.place, frames)
        robot = self._robot(state, step.robot.float(), outputs)
        imagined = ImaginedStep(
            self.model, state.frame, frames, given, state.elapsed, outputs, robot
        )
        following = ImaginedState(
            step.state, frames[:, -1], robot[:, -1], state.elapsed + self.chunk
        )
        return imagined, following

    @torch.inference_mode()
    def restart(
        self, state: ImaginedState, rows: Int64[Tensor, " restarted"], fresh: ImaginedState
    ) -> ImaginedState:
        """Replace some episodes by fresh ones; not a bit of the others changes."""
        return put(state, rows, fresh)

    def _robot(
        self, state: ImaginedState, foretold: Tensor, outputs: FrameOutputs | None
    ) -> Float[Tensor, "rows chunk state_dim"]:
        """The robot's state: foretold, or read off the frames, or what it was."""
        robot = state.robot[:, None].expand(-1, self.chunk, -1)
        if outputs is not None and outputs.state.shape[-1] == self.state_dim:
            robot = outputs.state
        if self.network.state_dim:
            robot = torch.where(foretold.isnan(), robot, foretold)
        return robot

    def _judge(self, features: Tensor, place: Tensor, frames: Tensor) -> FrameOutputs:
        """What the heads say of the chunk's frames."""
        assert self.heads is not None
        views, _, height, width = frames.shape[2:]
        grid = (views, height // self.network.patch, width // self.network.patch)
        outputs = self.heads(features, grid, frames, place)
        return FrameOutputs(*(value.float() for value in outputs))


def _in_precision(network: UWM, dtype: torch.dtype) -> UWM:
    """The network itself, or a copy of it with weights of another type."""
    if dtype == network.dtype:
        return network
    twin = deepcopy(network)
    nn.Module.to(twin, dtype)
    twin.kinematics = network.kinematics  # it adds up small steps
    return twin
