"""What an actor is: from observations to chunks of normalised actions, and how it is kept on disk.

Anything with `act` is an actor. One with weights of its own is an `ActorNetwork`, which a saved
policy describes by class and constructor arguments, so that actors may contain actors.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Distribution

from policy.observations import Observation
from video.errors import DatasetError


@runtime_checkable
class Actor(Protocol):
    """Chooses the next k actions.

    Attributes:
        chunk: actions k at a time.
        action_dim: size A of one.
    """

    chunk: int
    action_dim: int

    def act(
        self,
        observation: Observation,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> Float[Tensor, "envs chunk action_dim"]:
        """Actions, normalised to about [-1, 1].

        Args:
            observation: of E environments, on the actor's device.
            generator: where chance comes from.
            deterministic: leave nothing to chance.
        """
        ...


@runtime_checkable
class StochasticActor(Actor, Protocol):
    """An actor that knows how likely its actions are."""

    def distribution(self, observation: Observation) -> Distribution:
        """Of whole chunks: batch shape (E,), event shape (k, A)."""
        ...

    def decode(
        self, observation: Observation, drawn: Float[Tensor, "envs chunk action_dim"]
    ) -> Float[Tensor, "envs chunk action_dim"]:
        """Actions of what was drawn from the distribution; for most actors that are the actions."""
        ...


class ActorNetwork(nn.Module, ABC):
    """An actor with weights, which can be cloned and saved.

    Attributes:
        chunk: actions k at a time.
        action_dim: size A of one.
    """

    chunk: int
    action_dim: int

    @abstractmethod
    def act(
        self,
        observation: Observation,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
    ) -> Float[Tensor, "envs chunk action_dim"]:
        """As `Actor.act`."""

    def decode(
        self, observation: Observation, drawn: Float[Tensor, "envs chunk action_dim"]
    ) -> Float[Tensor, "envs chunk action_dim"]:
        """As `StochasticActor.decode`."""
        return drawn

    @abstractmethod
    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments as JSON; an actor among them as `describe` gives it."""


@runtime_checkable
class Cloneable(Protocol):
    """An actor that learns from demonstrations."""

    def cloning_error(
        self,
        observation: Observation,
        actions: Float[Tensor, "envs chunk action_dim"],
        known: Bool[Tensor, "envs chunk"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "envs chunk"]:
        """How far the actor is from the demonstrated actions, one number a step, to be lowered.

        Args:
            observation: what was seen.
            actions: what was done, normalised.
            known: where that is known. The actions of all other steps change nothing, and the
                number returned for such a step means nothing.
            generator: where chance comes from.
        """
        ...


def describe(actor: ActorNetwork) -> dict[str, Any]:
    """Class and arguments, from which `build` makes the same actor, with other weights."""
    kind = type(actor)
    return {
        "class_path": f"{kind.__module__}.{kind.__qualname__}",
        "init_args": actor.arguments(),
    }


def build(description: Mapping[str, Any]) -> ActorNetwork:
    """The inverse of `describe`.

    Raises:
        DatasetError: a class that is not there, or no actor, or arguments that it does not take.
    """
    path = description["class_path"]
    module, _, name = path.rpartition(".")
    try:
        kind = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise DatasetError(
            f"this policy's actor is a {path}, which cannot be imported ({error}). Install the "
            "package it comes from."
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, ActorNetwork)):
        raise DatasetError(f"{path} is no ActorNetwork, so it cannot be a policy's actor.")
    arguments = {
        key: build(value) if isinstance(value, Mapping) and "class_path" in value else value
        for key, value in description["init_args"].items()
    }
    try:
        return kind(**arguments)
    except TypeError as error:
        raise DatasetError(
            f"{path} does not take the arguments that this policy was saved with ({error}). Use "
            "the version of the package that wrote it."
        ) from error
