"""What fails is practised more."""

import numpy as np
import pytest

from policy.curriculum import Curriculum
from policy.rollout import Episodes


def episodes(*outcomes: tuple[int, bool]) -> Episodes:
    """Episodes by their context and whether they succeeded."""
    contexts, successes = zip(*outcomes, strict=True)
    return Episodes(successes=list(successes), contexts=list(contexts))


def curriculum(**options) -> Curriculum:
    """Of two tasks, one of which has three contexts."""
    made = Curriculum(**options)
    made.begin(["push", "lift", "push", "push"])
    return made


def test_before_anything_is_known_all_tasks_are_alike():
    np.testing.assert_allclose(curriculum().context_weights(), [1 / 6, 1 / 2, 1 / 6, 1 / 6])


def test_weights_are_rates_of_failure():
    made = curriculum(least=0.1)
    found = made.learn(episodes((0, True), (2, True), (3, True), (0, False), (1, False)))
    assert found == {"success_push": 0.75, "success_lift": 0.0, "success": 0.375}
    # rates of failure 0.25 and 1, the first of which three contexts share
    np.testing.assert_allclose(made.context_weights(), np.array([1, 12, 1, 1]) / 15)
    for _ in range(2):  # 0.25 -> 0.125 -> 0.0625, which is less than the least
        made.learn(episodes((0, True), (1, False)))
    np.testing.assert_allclose(made.context_weights()[1], 1 / 1.1)
    np.testing.assert_allclose(made.context_weights().sum(), 1)


def test_what_is_known_is_forgotten_little_by_little():
    made = curriculum(memory=0.75)
    made.learn(episodes((0, True)))
    assert made.learn(episodes((0, False))) == {"success_push": 0.75, "success": 0.75}
    assert np.isnan(float(made.success[made.tasks.index("lift")]))


def test_what_is_known_is_part_of_a_checkpoint():
    made, other = curriculum(), curriculum()
    made.learn(episodes((0, True), (1, False)))
    other.load_state_dict(made.state_dict())
    np.testing.assert_array_equal(other.context_weights(), made.context_weights())


def test_episodes_without_a_stored_context_say_nothing():
    made = curriculum()
    assert made.learn(episodes((-1, True))) == {}
    assert made.success.isnan().all()


@pytest.mark.parametrize("options", [{"least": 0.0}, {"least": 1.1}, {"memory": 1.0}])
def test_refuses_numbers_that_are_no_shares(options):
    with pytest.raises(ValueError, match="must lie in"):
        Curriculum(**options)
