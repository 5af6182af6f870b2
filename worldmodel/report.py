"""What a training run of the world model ends with: figures, a video and a strip to look at."""

from pathlib import Path

import lightning as L
from lightning.fabric.utilities.rank_zero import rank_zero_only

from video.safe_files import write_json
from worldmodel.evaluate import measure, table
from worldmodel.held_out import read_held_out
from worldmodel.imagine import write_pictures
from worldmodel.imagined_video import imagined_frames
from worldmodel.world_model import WorldModel


class RolloutReport(L.Callback):
    """After training, evaluate the saved model folder and write rollouts of held-out episodes.

    Writes `evaluation.json`, `rollouts.mp4` and `rollouts.png` into the run's folder.

    Args:
        data: dataset with a split that was not trained on.
        split: that split.
        episodes: episodes to show, spread evenly over the split.
        horizon: frames to show.
        steps: sampler steps.
        seed: of the noise.
    """

    def __init__(
        self,
        data: str,
        split: str = "test",
        episodes: int = 12,
        horizon: int = 32,
        steps: int = 1,
        seed: int = 0,
    ):
        self.data = data
        self.split = split
        self.episodes = episodes
        self.horizon = horizon
        self.steps = steps
        self.seed = seed

    @rank_zero_only
    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Evaluate what the run wrote; by now the model folder is there."""
        if getattr(trainer, "fast_dev_run", False):
            return
        folder = Path(trainer.default_root_dir)
        model = WorldModel.from_pretrained(folder / "model")
        print(f"\nImagining the episodes of split {self.split!r} of {self.data}", flush=True)
        result = measure(model, self.data, self.split, steps=self.steps, seed=self.seed)
        write_json(folder / "evaluation.json", result)
        held_out = read_held_out(model, self.data, self.split, self.horizon + 1, self.episodes)
        frames = imagined_frames(
            model, held_out, "forward_dynamics", self.horizon, self.steps, self.seed
        )
        pictures = write_pictures(model, held_out, frames, folder, "rollouts")
        print(f"\n{table(result)}\n")
        for path in (folder / "model", folder / "evaluation.json", *pictures):
            print(f"wrote {path}")
