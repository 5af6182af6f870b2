"""Where bfloat16 is fast, and what to compute in where it is not.

A processor without instructions for it needs a hundred times longer in bfloat16 than in float32
(PyTorch 2.13, two cores with AVX2: 1.1 against 131 GFLOP/s), so a configuration that asks for it on
a GPU or on a newer processor must not be taken by its word there.
"""

import torch

FULL, MIXED = "32-true", "bf16-mixed"
"""Lightning's names of the two."""


def is_bfloat16_fast(device: torch.device | str = "cpu") -> bool:
    """Whether a device computes in bfloat16 at least about as fast as in float32."""
    if torch.device(device).type != "cpu":
        return True
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def precision_for(accelerator: str, precision: str | int | None) -> str | int | None:
    """The trainer's precision: what was asked for, or float32 where bf16-mixed is slow.

    Args:
        accelerator: Lightning's name, such as "auto" or "cpu".
        precision: as it was asked for.
    """
    on_cpu = accelerator == "cpu" or (
        accelerator == "auto" and not torch.accelerator.is_available()
    )
    if precision == MIXED and on_cpu and not is_bfloat16_fast():
        return FULL
    return precision
