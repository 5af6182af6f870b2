"""Training of the success classifier, on frames of everything that was imagined for the heads."""

import torch
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import tqdm

from worldmodel.heads_batch import FrameMemory
from worldmodel.heads_objective import cross_entropy
from worldmodel.heads_rollouts import HeadsRollouts
from worldmodel.success_classifier import SuccessClassifier

FRAMES = 256
"""In an update."""

LEARNING_RATE = 2e-3
"""The peak, a third of the way."""


def learn_success(
    classifier: SuccessClassifier,
    memory: FrameMemory,
    settings: HeadsRollouts,
    success_weight: float,
    updates: int,
    seed: int = 0,
) -> None:
    """Learn to tell success from single frames.

    The members see the same frames and begin at different weights, which is what makes ensembles
    disagree (Lakshminarayanan et al., arXiv 1612.01474).

    Args:
        classifier: to be trained, on the device where it is.
        memory: what was imagined.
        settings: how frames are shown.
        success_weight: what a missed success costs beside a false one.
        updates: how many.
        seed: of the frames and of dropout.
    """
    device = next(classifier.parameters()).device
    optimizer = torch.optim.AdamW(classifier.parameters(), LEARNING_RATE, weight_decay=0.01)
    schedule = OneCycleLR(optimizer, LEARNING_RATE, max(updates, 2))
    generator = torch.Generator().manual_seed(seed)
    was_training = classifier.training
    classifier.train()
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(seed)
        for _ in tqdm(range(updates), "Success classifier", unit=" updates", mininterval=5):
            shown = memory.glance(FRAMES, settings, generator).to(device)
            logits = classifier(shown.frames)
            weights = torch.ones(len(logits), FRAMES, device=device)
            loss = cross_entropy(logits, shown.success, shown.mask, weights, success_weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    classifier.train(was_training)
