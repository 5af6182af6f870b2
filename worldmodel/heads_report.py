"""What a training run of the heads ends with: how far they can be trusted."""

from pathlib import Path

import lightning as L
from lightning.fabric.utilities.rank_zero import rank_zero_only

from video.safe_files import write_json
from worldmodel.evaluate_heads import heads_table, measure_heads
from worldmodel.world_model import WorldModel


class HeadsReport(L.Callback):
    """After training, evaluate the heads in the world model's folder on held-out episodes.

    Prints a table and writes `heads.json` into the run's folder.

    Args:
        world_model: folder of the world model.
        data: labelled dataset with a split that was not trained on.
        split: that split.
        steps: sampler steps.
        seed: of the noise.
    """

    def __init__(
        self, world_model: str, data: str, split: str = "test", steps: int = 1, seed: int = 0
    ):
        self.world_model = world_model
        self.data = data
        self.split = split
        self.steps = steps
        self.seed = seed

    @rank_zero_only
    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Evaluate what the run wrote; by now the heads are there."""
        if getattr(trainer, "fast_dev_run", False):
            return
        model = WorldModel.from_pretrained(self.world_model)
        result = measure_heads(model, self.data, self.split, self.steps, seed=self.seed)
        out = Path(trainer.default_root_dir) / "heads.json"
        write_json(out, result)
        print(f"\n{heads_table(result)}\n")
        print(f"wrote {Path(self.world_model) / 'heads'}")
        print(f"wrote {out}")
