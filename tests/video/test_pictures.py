import numpy as np
import pytest
import torch
from PIL import Image

from video.pictures import BORDER, GAP, RED, TEXT, write_side_by_side, write_strip
from video.video_file import read_video, video_header


def plain(colors, size=16):
    """One frame for every gray value."""
    frames = torch.tensor(colors, dtype=torch.uint8).view(-1, 1, 1, 1)
    return frames.expand(-1, 3, size, size)


def test_a_strip_shows_the_frames_that_were_asked_for(tmp_path):
    rows = [("real", plain([0, 40, 80, 120])), ("imagined", plain([0, 45, 90]))]
    write_strip(tmp_path / "strip.png", rows, columns=[0, 2, 3], upscale=2)
    pixels = np.asarray(Image.open(tmp_path / "strip.png"))
    step, top = 32 + GAP, TEXT + 2 * GAP
    left = pixels.shape[1] - 3 * step
    assert pixels.shape == (top + 2 * step, left + 3 * step, 3)
    middles = [
        [pixels[top + 16 + m * step, left + 16 + n * step].tolist() for n in range(3)]
        for m in range(2)
    ]
    gray = [[0, 80, 120], [0, 90, 255]]  # the shorter video's place stays empty
    assert middles == [[[value] * 3 for value in row] for row in gray]
    assert (pixels[top:, :left] < 200).any(), "no label was drawn"


def test_small_frames_are_enlarged_with_sharp_pixels(tmp_path):
    checkers = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    checkers[..., ::2, ::2] = 255
    write_strip(tmp_path / "strip.png", [("x", checkers)], [0])
    pixels = np.asarray(Image.open(tmp_path / "strip.png"))
    picture = pixels[-128 - GAP : -GAP, -128 - GAP : -GAP]
    expected = np.kron(checkers[0, 0].numpy(), np.ones((2, 2), np.uint8))
    assert np.array_equal(picture[..., 0], expected)


def cell(frame, row, column, size):
    """The place of one episode, (real, imagined), without their borders."""
    height = TEXT + GAP + size + 2 * BORDER + GAP
    width = 2 * (size + 2 * BORDER) + 3 * GAP
    y = row * height + TEXT + GAP + BORDER
    x = column * width + GAP + BORDER
    inside = frame[y : y + size]
    return inside[:, x : x + size], inside[:, x + size + 2 * BORDER + GAP :][:, :size]


def test_real_is_left_imagined_is_right_and_every_episode_has_its_place(tmp_path):
    real = [plain([20 * n, 20 * n + 10]) for n in range(5)]
    imagined = [plain([20 * n, 200]) for n in range(5)]
    path = tmp_path / "videos.mp4"
    write_side_by_side(path, real, imagined, fps=10, upscale=2, labels=["a long name " * 9] * 5)
    frames = read_video(path, np.arange(2))
    across = round(frames.shape[2] / (2 * (32 + 2 * BORDER) + 3 * GAP))
    assert across == 2
    for n in range(5):
        for t, expected in enumerate([(20 * n, 20 * n), (20 * n + 10, 200)]):
            middles = [part[8:24, 8:24].mean() for part in cell(frames[t], n // 2, n % 2, 32)]
            assert middles == pytest.approx(expected, abs=4)


def test_only_imagined_frames_have_a_red_border(tmp_path):
    path = tmp_path / "video.mp4"
    write_side_by_side(path, [plain([90] * 3)], [plain([90] * 3)], fps=10, given=2, upscale=2)
    frames = read_video(path, np.arange(3)).astype(int)
    y = TEXT + GAP + 16
    x = GAP + 32 + 2 * BORDER + GAP + 1  # within the left border of the imagined frame
    reddish = [pixel[0] - pixel[1] > 80 for pixel in frames[:, y, x]]
    assert reddish == [False, False, True]
    assert not (frames[2, y, : GAP + 32] @ [1, -1, 0] > 80).any(), "the real frame is not imagined"
    assert RED[0] > RED[1] + 100


def test_a_video_that_ends_early_stands_still(tmp_path):
    path = tmp_path / "video.mp4"
    write_side_by_side(path, [plain([10, 60])], [plain([10, 60, 110, 160])], fps=10, upscale=2)
    frames = read_video(path, np.arange(4))
    shown = [cell(frame, 0, 0, 32)[0][8:24, 8:24].mean() for frame in frames]
    assert shown == pytest.approx([10, 60, 60, 60], abs=4)


def test_browsers_can_play_it(tmp_path):
    path = tmp_path / "video.mp4"
    frames = [plain([50, 60], size=15)]
    write_side_by_side(path, frames, frames, fps=10, upscale=1)
    header = video_header(path)
    assert header.width % 2 == 0
    assert header.height % 2 == 0
    assert header.fps == 10


@pytest.mark.parametrize(
    ("real", "imagined", "message"),
    [
        ([], [], "nothing to draw"),
        ([plain([1])], [], "1 real episodes, but 0 imagined"),
        ([plain([1])], [plain([1], size=8)], "must be of one size"),
    ],
)
@pytest.mark.usefixtures("shapes_unchecked")
def test_what_cannot_be_drawn_is_named(tmp_path, real, imagined, message):
    with pytest.raises(ValueError, match=message):
        write_side_by_side(tmp_path / "video.mp4", real, imagined, fps=10)
    assert list(tmp_path.iterdir()) == []


def test_a_strip_needs_columns(tmp_path):
    with pytest.raises(ValueError, match="columns is empty"):
        write_strip(tmp_path / "strip.png", [("a", plain([1]))], [])
