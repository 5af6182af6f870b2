import numpy as np

from video.confidence import confidence


def test_confidence_is_the_reliability_of_a_measurement():
    spread = np.array([[0.0, 0.0], [0.5, 0.5], [1.0, 0.0]], np.float32)
    # 1 / (1 + 0), 1 / (1 + .25 / .25), 1 / (1 + .5 / .25)
    np.testing.assert_allclose(confidence(spread, 0.5), [1, 0.5, 1 / 3], rtol=1e-6)
    assert confidence(spread, 0.5).dtype == np.float32
    assert confidence(np.zeros((2, 3), np.float32)).tolist() == [1.0, 1.0]  # exactly
