"""Simulators in worker processes: several in each, stepped together, drawn only where it is asked.

What makes a vector environment of them is in `real.py`.
"""

import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from video.errors import DatasetError, SimulatorMissing
from video.simulators.episode import observed
from video.simulators.processes import one_thread


class Begin(NamedTuple):
    """Begin an episode: the gymnasium id and the seed of its reset."""

    env: str
    seed: int


class Act(NamedTuple):
    """Take actions `(k, A)`, and stop at a success if that is an end."""

    actions: np.ndarray
    until_success: bool


@dataclass
class Moment:
    """Where a simulator stands.

    Attributes:
        frame: what its camera sees, uint8 `(H, W, 3)`.
        state: what the robot feels, float32; None where the simulator does not say.
        rewards: of the steps that led here; empty behind a reset.
        successes: of the same steps.
        terminated: whether the simulator itself ended the episode.
        truncated: whether it cut it short.
    """

    frame: np.ndarray
    state: np.ndarray | None
    rewards: list[float]
    successes: list[bool]
    terminated: bool = False
    truncated: bool = False


class Simulators:
    """The simulators of some places, in this process.

    Simulators of several ids take turns in a place; those not in use are kept for the next that
    needs one.

    Args:
        kwargs: for `gymnasium.make`.
    """

    def __init__(self, kwargs: dict[str, Any]):
        self.kwargs = kwargs
        self.at: dict[int, tuple[str, gymnasium.Env]] = {}
        self.idle: dict[str, list[gymnasium.Env]] = {}

    def __call__(self, orders: Sequence[tuple[int, Begin | Act]]) -> list[Moment]:
        """Carry out an order at each of several places."""
        return [
            self._begin(place, order) if isinstance(order, Begin) else self._act(place, order)
            for place, order in orders
        ]

    def spaces(self, env: str) -> tuple[gymnasium.Space, Moment, float | None]:
        """Action space, a first moment and the frame rate of an id."""
        first = self._begin(0, Begin(env, 0))
        simulator = self.at[0][1]
        return simulator.action_space, first, simulator.metadata.get("render_fps")

    def close(self) -> None:
        """Close them all."""
        for _, simulator in self.at.values():
            simulator.close()
        for simulator in chain.from_iterable(self.idle.values()):
            simulator.close()
        self.at, self.idle = {}, {}

    def _begin(self, place: int, order: Begin) -> Moment:
        if place in self.at and self.at[place][0] != order.env:
            name, simulator = self.at.pop(place)
            self.idle.setdefault(name, []).append(simulator)
        if place not in self.at:
            idle = self.idle.get(order.env)
            self.at[place] = (order.env, idle.pop() if idle else _make(order.env, self.kwargs))
        simulator = self.at[place][1]
        observation, _ = simulator.reset(seed=order.seed)
        return Moment(_frame(simulator), observed(observation).get("state"), [], [])

    def _act(self, place: int, order: Act) -> Moment:
        simulator = self.at[place][1]
        rewards, successes = [], []
        observation, terminated, truncated = None, False, False
        for action in order.actions:
            observation, reward, terminated, truncated, info = simulator.step(action)
            rewards.append(float(reward))
            successes.append(bool(info.get("success", info.get("is_success", False))))
            if terminated or truncated or (order.until_success and successes[-1]):
                break
        state = observed(observation).get("state")
        return Moment(_frame(simulator), state, rewards, successes, terminated, truncated)


class Workers:
    """Simulators over several processes: place i belongs to process i modulo their number.

    Args:
        count: processes, started afresh ("spawn"); 0 stays in this one.
        kwargs: for `gymnasium.make`.
    """

    def __init__(self, count: int, kwargs: dict[str, Any]):
        self.here = Simulators(kwargs) if count == 0 else None
        self.connections: list[Connection] = []
        self.processes = []
        context = multiprocessing.get_context("spawn")
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, kwargs), daemon=True)
            with one_thread():
                process.start()
            theirs.close()
            self.connections.append(ours)
            self.processes.append(process)

    def spaces(self, env: str) -> tuple[gymnasium.Space, Moment, float | None]:
        """As `Simulators.spaces`."""
        if self.here is not None:
            return self.here.spaces(env)
        self.connections[0].send(env)
        return self._receive(0)

    def __call__(self, orders: Sequence[tuple[int, Begin | Act]]) -> list[Moment]:
        """Carry out orders, all processes at the same time; the moments in the orders' order."""
        if self.here is not None:
            return self.here(orders)
        count = len(self.connections)
        shares = {w: [o for o in orders if o[0] % count == w] for w in range(count)}
        for worker, share in shares.items():
            if share:
                self.connections[worker].send(share)
        answers = {w: iter(self._receive(w)) for w, share in shares.items() if share}
        return [next(answers[place % count]) for place, _ in orders]

    def close(self) -> None:
        """End the processes."""
        if self.here is not None:
            self.here.close()
        for connection in self.connections:
            connection.close()  # which ends the process
        for process in self.processes:
            process.join()
        self.connections, self.processes = [], []

    def _receive(self, worker: int) -> Any:
        try:
            answer = self.connections[worker].recv()
        except (EOFError, ConnectionResetError):
            process = self.processes[worker]
            process.join()
            raise RuntimeError(f"a simulator died with exit code {process.exitcode}") from None
        if isinstance(answer, Exception):
            raise answer
        return answer


def _work(connection: Connection, kwargs: dict[str, Any]) -> None:
    simulators = Simulators(kwargs)
    while True:
        try:
            order = connection.recv()
        except (EOFError, KeyboardInterrupt):
            simulators.close()
            return
        try:
            answer = simulators.spaces(order) if isinstance(order, str) else simulators(order)
        except DatasetError as error:
            answer = error
        except Exception as error:
            answer = RuntimeError(f"{type(error).__name__}: {error}")  # may not be picklable
        connection.send(answer)


def _make(env: str, kwargs: dict[str, Any]) -> gymnasium.Env:
    package, slash, _ = env.partition("/")
    if slash and ":" not in env and env not in gymnasium.registry:
        env = f"{'video.simulators' if package == 'metaworld' else package}:{env}"
    try:
        return gymnasium.make(env, render_mode="rgb_array", disable_env_checker=True, **kwargs)
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
        raise SimulatorMissing(f"{env} cannot be made: {error}") from error
    except (gymnasium.error.Error, TypeError, ValueError) as error:
        raise DatasetError(f"{env} cannot be made: {error}") from error


def _frame(simulator: gymnasium.Env) -> np.ndarray:
    frame = simulator.render()
    assert isinstance(frame, np.ndarray), "render_mode is rgb_array"
    return frame
