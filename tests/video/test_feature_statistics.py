import numpy as np

from video.feature_statistics import column_statistics, frame_statistics, merge_statistics


def test_statistics_of_a_column():
    found = column_statistics(np.array([[1, 10], [3, 10], [5, 40]], np.float32))
    assert {name: value.tolist() for name, value in found.items()} == {
        "min": [1, 10],
        "max": [5, 40],
        "mean": [3, 20],
        "std": [np.sqrt(8 / 3), np.sqrt(200)],
        "count": [3],
    }
    flags = column_statistics(np.array([True, False, False, False]))
    assert flags["mean"].tolist() == [0.25]


def test_statistics_of_frames_are_by_colour_between_0_and_1():
    frames = np.zeros((2, 4, 4, 3), np.uint8)
    frames[0, ..., 0] = 255
    frames[..., 2] = 51
    found = frame_statistics(frames)
    assert found["mean"].shape == (3, 1, 1)
    np.testing.assert_allclose(found["mean"].ravel(), [0.5, 0, 0.2])
    np.testing.assert_allclose(found["std"].ravel(), [0.5, 0, 0], atol=1e-12)
    np.testing.assert_allclose(found["max"].ravel(), [1, 0, 0.2])
    assert found["count"].tolist() == [2]
    assert frame_statistics(np.zeros((500, 2, 2, 3), np.uint8))["count"].tolist() == [100]


def test_merged_statistics_are_those_of_all_values():
    first, second = np.array([[0.0], [2.0]]), np.array([[5.0], [5.0], [5.0], [7.0]])
    merged = merge_statistics([column_statistics(first), column_statistics(second)])
    # of 0 2 5 5 5 7: mean 4, variance (16 + 4 + 1 + 1 + 1 + 9) / 6
    np.testing.assert_allclose(merged["mean"], [4])
    np.testing.assert_allclose(merged["std"], [np.sqrt(32 / 6)])
    assert merged["min"].tolist() == [0]
    assert merged["max"].tolist() == [7]
    assert merged["count"].tolist() == [6]
