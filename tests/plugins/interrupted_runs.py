"""Training runs that break off, to be resumed."""

from collections.abc import Iterator
from contextlib import contextmanager

import lightning as L
import pytest


@contextmanager
def breaks_off(training: type[L.LightningModule], step: int) -> Iterator[None]:
    """Within this, a run of this kind fails when `step` steps are done, and has to get there."""
    whole = training.training_step

    def interrupted(self, *batch):
        if self.trainer.global_step == step:
            raise RuntimeError("stopped on purpose")
        return whole(self, *batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "training_step", interrupted)
        with pytest.raises(RuntimeError, match="on purpose"):
            yield
