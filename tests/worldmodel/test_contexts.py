import pytest
import torch
from safetensors.torch import save_file

from video.errors import DatasetError
from worldmodel.contexts import Contexts


@pytest.fixture
def contexts():
    frames = torch.arange(3, dtype=torch.uint8).view(3, 1, 1, 1, 1).expand(3, 1, 3, 4, 4)
    known = torch.tensor([True, False, True])
    return Contexts(frames, torch.tensor([[1.0], [0.0], [3.0]]), known, ["push", "push", "pull"])


def test_saved_and_loaded_they_are_the_same(contexts, tmp_path):
    contexts.save(tmp_path / "contexts.safetensors")
    loaded = Contexts.load(tmp_path / "contexts.safetensors")
    assert loaded.frames.equal(contexts.frames)
    assert loaded.state.equal(contexts.state)
    assert loaded.state_mask.equal(contexts.state_mask)
    assert loaded.tasks == contexts.tasks


def test_selected_by_task_and_by_known_state(contexts):
    assert contexts.select(["push"]).frames[:, 0, 0, 0, 0].tolist() == [0, 1]
    assert contexts.select(None, with_state=True).state.tolist() == [[1.0], [3.0]]
    assert contexts.select(["push"], with_state=True).tasks == ["push"]
    with pytest.raises(DatasetError, match=r"no start context of the tasks \['lift'\]; there are"):
        contexts.select(["lift"])


def test_an_older_file_is_named(tmp_path):
    path = tmp_path / "contexts.safetensors"
    save_file({"frames": torch.zeros(1, 1, 3, 4, 4, dtype=torch.uint8)}, path)
    with pytest.raises(DatasetError, match=r"contexts.safetensors was written by an older version"):
        Contexts.load(path)
