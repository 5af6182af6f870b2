"""The seed of a step of training, so that a run that was resumed draws what it would have drawn."""

import lightning as L

from video.seeds import mixed_seed


def seed_of_step(trainer: L.Trainer, seed: int, batch_idx: int) -> int:
    """Another one for every batch and process, the same wherever the run was resumed.

    Args:
        trainer: of the run.
        seed: of the run.
        batch_idx: as Lightning counts it.
    """
    micro = batch_idx % trainer.accumulate_grad_batches
    return mixed_seed(seed, trainer.global_step, micro, trainer.global_rank)
