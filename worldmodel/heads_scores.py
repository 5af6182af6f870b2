"""How good the heads are on held-out episodes: every figure of `evaluate_heads`, without printing.

Frames are imagined ones, labels those of the true frames at the same time. So a wrong verdict may
be the heads' fault or the world model's; what uses them meets both.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchmetrics.functional import r2_score, spearman_corrcoef
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_precision,
    binary_recall,
)

from worldmodel.heads_replay import Replay, TrueLabels
from worldmodel.scores import HORIZONS

WORST = 0.1
"""Share of the frames that count as the worst."""

THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
FALSE_SUCCESS_RATES = (0.1, 0.05, 0.02)
FEWEST_EPISODES = 10
"""Episodes that a step must have for a worst tenth of its own."""

RESAMPLES = 300


def success_figures(
    replay: Replay, labels: TrueLabels, seed: int = 0, threshold: float = 0.5
) -> dict:
    """Precision and recall by frame, and what becomes of whole episodes.

    A true episode is a success if one of its frames is; the imagined one by each of three rules, at
    a threshold: `every_member` of the ensemble believes it of one frame (the environment's rule, by
    which frames are counted, too), their `mean` does, or it does of `two_frames` in a row.
    """
    mask = replay.known & labels.success_mask
    probability = replay.outputs.success_logit.sigmoid().where(mask, torch.zeros(()))
    lowest = replay.outputs.lowest_success_logit.sigmoid().where(mask, torch.zeros(()))
    judged, true = lowest[mask], labels.success[mask]
    passed = (judged > threshold).int()
    succeeded = (labels.success & mask).any(dim=1)
    best = {
        "every_member": lowest.amax(dim=1),
        "mean": probability.amax(dim=1),
        "two_frames": torch.minimum(probability[:, 1:], probability[:, :-1]).amax(dim=1),
    }
    rows = torch.arange(len(mask))[:, None].expand_as(mask)[mask]
    return {
        "precision": binary_precision(passed, true.int()).item(),
        "recall": binary_recall(passed, true.int()).item(),
        "auroc": auroc(judged, true),
        "auroc_interval": interval(
            lambda drawn: _auroc_of_rows(judged, true, rows, drawn), len(mask), seed
        ),
        "frames": int(mask.sum()),
        "threshold": threshold,
        "episodes": {
            name: episode_figures(score, succeeded, seed, threshold) for name, score in best.items()
        },
    }


def episode_figures(
    score: Float[Tensor, " episodes"],
    succeeded: Bool[Tensor, " episodes"],
    seed: int = 0,
    threshold: float = 0.5,
) -> dict:
    """What share of the failed and of the successful episodes passes for a success.

    Args:
        score: an episode passes where this is above a threshold.
        succeeded: what is true.
        seed: of the resampling.
        threshold: the one that is in use.

    Returns:
        At the `threshold` with 95 % intervals, at `THRESHOLDS`, and at the lowest thresholds
        that keep to `FALSE_SUCCESS_RATES` on these very episodes.
    """
    failed = ~succeeded
    figures: dict = {"failed": int(failed.sum()), "successful": int(succeeded.sum())}
    for name, part in (("false_success_rate", score[failed]), ("recall", score[succeeded])):
        if len(part):
            passed = (part > threshold).float()
            figures[name] = passed.mean().item()
            figures[f"{name}_interval"] = interval(
                lambda drawn, passed=passed: passed[drawn].mean().item(), len(part), seed
            )
    if not (failed.any() and succeeded.any()):
        return figures
    figures["curve"] = [
        {
            "threshold": threshold,
            "false_success_rate": _share_above(score[failed], threshold),
            "recall": _share_above(score[succeeded], threshold),
        }
        for threshold in THRESHOLDS
    ]
    figures["at_false_success_rate"] = {}
    for rate in FALSE_SUCCESS_RATES:
        threshold = threshold_for(score[failed], rate)
        figures["at_false_success_rate"][str(rate)] = {
            "threshold": threshold,
            "recall": _share_above(score[succeeded], threshold),
        }
    return figures


def threshold_for(scores: Float[Tensor, " n"], rate: float) -> float:
    """The lowest threshold that at most a share `rate` of the scores is above."""
    allowed = int(rate * len(scores))
    return scores.sort(descending=True).values[allowed].item() if allowed < len(scores) else 0.0


def reward_figures(replay: Replay, labels: TrueLabels) -> dict:
    """Share of the reward's variance explained, and its root-mean-square error."""
    mask = replay.known & labels.reward_mask
    predicted, true = replay.outputs.reward[mask], labels.reward[mask]
    return {
        "r2": r2_score(predicted, true).item(),
        "rmse": (predicted - true).square().mean().sqrt().item(),
    }


def state_figures(
    predicted: Float[Tensor, "episodes frames state_dim"], replay: Replay, labels: TrueLabels
) -> dict:
    """By dimension, in the data's units: the error, also by horizon, and the state's own spread.

    `median_error` at horizon h is that of the h-th imagined frame, without its sign, and
    `ninth_decile_error` what nine in ten stay below: a hand that is held up is rare and far off.
    """
    mask = replay.known & labels.state_mask
    true = labels.state[mask]
    error = (predicted - labels.state).abs()
    reached = [h for h in HORIZONS if h <= mask.shape[1] and mask[:, h - 1].any()]
    at = {str(h): error[mask[:, h - 1], h - 1] for h in reached}
    return {
        "rmse": error[mask].square().mean(0).sqrt().tolist(),
        "standard_deviation": true.std(0).tolist(),
        "median_error": {h: errors.median(0).values.tolist() for h, errors in at.items()},
        "ninth_decile_error": {h: errors.quantile(0.9, dim=0).tolist() for h, errors in at.items()},
    }


def uncertainty_figures(replay: Replay, seed: int = 0) -> dict:
    """How well the worst imagined frames are told from the others, without the truth.

    For the predicted error, the members' disagreement, and the step number, which anyone knows:

    - `auroc`: for a frame being in the worst tenth.
    - `auroc_within_step`: for being in the worst tenth of the frames at the same step, averaged
      over steps: what the step number says nothing about.
    - `spearman`: rank correlation with the true error.
    """
    mask, error = replay.known, replay.error
    worst = error > error[mask].quantile(1 - WORST)
    step = torch.arange(mask.shape[1], dtype=error.dtype, device=error.device).expand_as(error)
    rows = torch.arange(len(mask))[:, None].expand_as(mask)[mask]
    scores = {
        "predicted_error": replay.outputs.error,
        "disagreement": replay.outputs.disagreement,
        "step": step,
    }
    figures = {}
    for name, score in scores.items():
        own, true = score[mask], worst[mask]
        figures[name] = {
            "auroc": auroc(own, true),
            "auroc_interval": interval(
                lambda drawn, own=own, true=true: _auroc_of_rows(own, true, rows, drawn),
                len(mask),
                seed,
            ),
            "auroc_within_step": auroc_within_step(score, error, mask),
            "spearman": spearman_corrcoef(own, error[mask]).item(),
        }
    ratio = replay.outputs.error[mask].mean() / error[mask].mean()
    figures["predicted_error"]["mean_over_true_mean"] = ratio.item()
    return figures


def auroc(score: Float[Tensor, " n"], positive: Bool[Tensor, " n"]) -> float:
    """Area under the ROC curve; NaN where only one class is there.

    Ranks take the scores' place: torchmetrics would squeeze scores outside of [0, 1] by a sigmoid,
    and make ties of large ones.
    """
    if positive.all() or not positive.any():
        return float("nan")
    ranks = torch.unique(score, return_inverse=True)[1].double()
    return binary_auroc(ranks / ranks.max().clamp(min=1), positive.int()).item()


def auroc_within_step(
    score: Float[Tensor, "episodes frames"],
    error: Float[Tensor, "episodes frames"],
    mask: Bool[Tensor, "episodes frames"],
) -> float:
    """Mean over steps of the AUROC for being in the step's own worst tenth; NaN without any."""
    values = []
    for step in range(error.shape[1]):
        rows = mask[:, step]
        if int(rows.sum()) >= FEWEST_EPISODES:
            own = error[rows, step]
            values.append(auroc(score[rows, step], own > own.quantile(1 - WORST)))
    finite = [value for value in values if value == value]
    return sum(finite) / len(finite) if finite else float("nan")


def interval(
    figure: Callable[[Tensor], float], count: int, seed: int, resamples: int = RESAMPLES
) -> list[float]:
    """95 % bootstrap interval of a figure over `count` rows, which it takes the numbers of."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(count, (resamples, count), generator=generator)
    values = torch.tensor([figure(rows) for rows in drawn], dtype=torch.float64)
    values = values[values.isfinite()]
    if not len(values):
        return [float("nan"), float("nan")]
    return values.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()


def _auroc_of_rows(score: Tensor, positive: Tensor, rows: Tensor, drawn: Tensor) -> float:
    """AUROC over the frames of episodes that were drawn, once for each time."""
    times = torch.bincount(drawn, minlength=int(rows.max()) + 1)[rows]
    return auroc(score.repeat_interleave(times), positive.repeat_interleave(times))


def _share_above(scores: Tensor, threshold: float) -> float:
    return (scores > threshold).float().mean().item()
