"""Actions are in the data's own units and bounds; what cannot be taken is refused."""

import re

import numpy as np
import pytest
from imagined_environments import commands, imagined
from tiny_world_models import ACTION_HIGH, ACTION_LOW


def test_actions_outside_the_bounds_are_clipped():
    """The bounds are those of the data, in its own units."""
    envs = imagined(2)
    assert envs.single_action_space.low.tolist() == ACTION_LOW.tolist()
    assert envs.single_action_space.high.tolist() == ACTION_HIGH.tolist()
    envs.reset(seed=0)
    state = envs.get_state()
    beyond, _, *_ = envs.step(np.array([[-50.0, 50.0], [3.0, -0.1]], np.float32))
    envs.set_state(state)
    within, _, *_ = envs.step(np.array([[-2.0, 1.0], [2.0, 0.0]], np.float32))
    assert np.array_equal(beyond, within)


def test_actions_that_cannot_be_taken_are_named():
    envs = imagined(3, chunk=2)
    envs.reset(seed=0)
    actions = commands(envs, 1)[0]
    before = envs.observe()
    for value in (np.nan, np.inf):
        bad = actions.copy()
        bad[1, 1, 0] = bad[2, 0, 0] = value
        with pytest.raises(ValueError, match=re.escape("environments [1, 2] are not finite")):
            envs.step(bad)
    with pytest.raises(ValueError, match=re.escape("actions are (3, 2), expected (3, 2, 2)")):
        envs.step(actions[:, 0])
    assert np.array_equal(envs.observe(), before)
