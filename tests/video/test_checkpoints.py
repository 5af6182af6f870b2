import pytest
import torch

from video.checkpoints import LastCheckpoint, WholeFileCheckpointIO
from video.errors import DatasetError


def test_what_is_written_comes_back(tmp_path):
    path = tmp_path / "new" / "last.ckpt"
    WholeFileCheckpointIO().save_checkpoint({"step": 1, "weights": torch.arange(3)}, path)
    read = WholeFileCheckpointIO().load_checkpoint(path)
    assert read["step"] == 1
    assert read["weights"].tolist() == [0, 1, 2]
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path):
    path = tmp_path / "last.ckpt"
    WholeFileCheckpointIO().save_checkpoint({"step": 1}, path)
    (tmp_path / ".last.ckpt.part").symlink_to("/dev/full")
    with pytest.raises(DatasetError, match=r"last\.ckpt could not be written .*is unchanged"):
        WholeFileCheckpointIO().save_checkpoint({"weights": torch.zeros(100_000)}, path)
    assert torch.load(path) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_rest_of_a_killed_save_is_replaced(tmp_path):
    (tmp_path / ".last.ckpt.part").write_bytes(b"half")
    WholeFileCheckpointIO().save_checkpoint({"step": 2}, tmp_path / "last.ckpt")
    assert torch.load(tmp_path / "last.ckpt") == {"step": 2}
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_saving_never_is_refused():
    with pytest.raises(ValueError, match="every_n_steps is 0"):
        LastCheckpoint(every_n_steps=0)
