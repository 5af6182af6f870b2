import torch

from worldmodel.noise import (
    ABSENT,
    GIVEN,
    corrupt,
    logit_normal_times,
    velocity,
    velocity_weight,
)


def test_corrupt_interpolates_from_data_to_noise():
    clean, noise = torch.tensor([2.0, 2.0, 2.0]), torch.tensor([-2.0, -2.0, -2.0])
    time = torch.tensor([GIVEN, 0.25, ABSENT])
    torch.testing.assert_close(corrupt(clean, noise, time), torch.tensor([2.0, 1.0, -2.0]))


def test_what_is_absent_leaves_no_trace():
    noise = torch.tensor([0.5])
    for value in (float("nan"), float("inf"), 1e9):
        assert corrupt(torch.tensor([value]), noise, torch.tensor([ABSENT])).item() == 0.5


def test_velocity_of_the_true_data_is_noise_minus_data():
    clean, noise, time = torch.tensor([3.0]), torch.tensor([-1.0]), torch.tensor([0.5])
    assert velocity(corrupt(clean, noise, time), clean, time).item() == -4.0


def test_velocity_weight_is_bounded_and_zero_where_nothing_is_denoised():
    weights = velocity_weight(torch.tensor([GIVEN, 0.1, 0.5, ABSENT]), floor=0.25)
    torch.testing.assert_close(weights, torch.tensor([0.0, 16.0, 4.0, 1.0]))


def test_logit_normal_times_of_literal_draws():
    times = logit_normal_times(torch.tensor([0.0, 1.0, -1.0]), mean=0.5, std=2.0)
    torch.testing.assert_close(times, torch.tensor([0.62246, 0.92414, 0.18243]), atol=1e-5, rtol=0)
