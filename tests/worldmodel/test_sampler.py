import pytest
import torch

from worldmodel.sampler import euler


def test_one_step_is_the_prediction_from_pure_noise():
    seen = []

    def predict(state, time):
        seen.append(time)
        return (state[0] * 0.5,)

    (result,) = euler(predict, (torch.tensor([4.0]),), steps=1)
    assert result.item() == 2.0
    assert seen == [1.0]


def test_a_model_that_knows_the_answer_is_followed_in_any_number_of_steps():
    answer = torch.tensor([3.0, -1.0])
    for steps in (1, 2, 5):
        (result,) = euler(lambda state, time: (answer,), (torch.zeros(2),), steps)
        torch.testing.assert_close(result, answer)


def test_two_steps_of_a_linear_model_by_hand():
    # x_hat = x / 2. From x = 8 at tau 1: v = 4, x = 6 at tau 0.5, and x_hat(6) = 3.
    (result,) = euler(lambda state, time: (state[0] / 2,), (torch.tensor([8.0]),), steps=2)
    assert result.item() == 3.0


def test_several_tensors_run_on_one_clock():
    times = []

    def predict(state, time):
        times.append(time)
        return (torch.zeros(1), torch.ones(2))

    first, second = euler(predict, (torch.ones(1), torch.ones(2)), steps=4)
    assert (first.item(), second.tolist()) == (0.0, [1.0, 1.0])
    assert times == [1.0, 0.75, 0.5, 0.25]


def test_no_step_is_refused():
    with pytest.raises(ValueError, match="steps=0"):
        euler(lambda state, time: state, (torch.zeros(1),), steps=0)
