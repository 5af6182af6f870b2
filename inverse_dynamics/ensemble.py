"""Several action models that read together, each trained from weights of its own.

    ensemble.json        names this class and the members
    calibration.json     how far their common spread can be trusted, once that is measured
    member_0/ ...        the members' own folders

Where networks err by chance they err apart, so their mean is nearer to the truth than each of them,
and what they differ by belongs to what they do not know.

Source: Lakshminarayanan et al., deep ensembles, arXiv 1612.01474, section 2.4.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from inverse_dynamics.estimate import mixture
from video.action_model import CLASS_KEY, ActionModel, Estimate, StateModel, load_action_model
from video.calibration import Calibration
from video.errors import DatasetError
from video.safe_files import reading_model, whole_folder, write_json

DESCRIPTION = "ensemble.json"
MUST_AGREE = ("fps", "cameras", "frame_size", "action_names", "kinds", "latents_of")
"""Beside the range of the actions."""


class Ensemble:
    """Reads actions by all of its members; an action model like any of them.

    Example:
        >>> both = Ensemble.from_pretrained("runs/idm_ensemble/model")  # doctest: +SKIP
        >>> both.read(both.encode(frames)[None])  # doctest: +SKIP

    Args:
        members: models of the same actions off the same frames.
        calibration: how far the common spread can be trusted; None until that is measured.

    Raises:
        DatasetError: fewer than two, or members that do not read the same.
    """

    def __init__(self, members: Sequence[ActionModel], calibration: Calibration | None = None):
        if len(members) < 2:
            raise DatasetError(f"an ensemble wants two models or more, got {len(members)}.")
        first, *others = members
        for number, other in enumerate(others, 1):
            expected = _interface(first)
            for name, value in _interface(other).items():
                if value != expected[name]:
                    raise DatasetError(
                        f"model {number} of the ensemble has {name}={value}, model 0 has "
                        f"{expected[name]}. Train them with the same data and data.* options."
                    )
        self.members = tuple(members)
        self.calibration = calibration
        self.fps, self.cameras, self.frame_size = first.fps, first.cameras, first.frame_size
        self.action_normalizer, self.action_names = first.action_normalizer, first.action_names
        self.kinds, self.latents_of = first.kinds, first.latents_of

    @classmethod
    def from_pretrained(cls, folder: Path | str, device: str = "cpu") -> "Ensemble":
        """Load a folder that `ensemble` wrote.

        Raises:
            DatasetError: no ensemble, or a member that is missing or damaged.
        """
        folder = Path(folder)
        with reading_model(folder):
            names = json.loads((folder / DESCRIPTION).read_text())["members"]
        members = [load_action_model(folder / name, device) for name in names]
        return cls(members, Calibration.load(folder))

    @property
    def state_dim(self) -> int:
        """Dimensions S of the robot's state that `states` tells; 0: not all members tell one."""
        sizes = {one.state_dim if isinstance(one, StateModel) else 0 for one in self.members}
        return sizes.pop() if len(sizes) == 1 else 0

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any member."""
        whole = " ".join(member.fingerprint for member in self.members)
        return hashlib.sha256(whole.encode()).hexdigest()[:16]

    def encode(
        self, frames: UInt8[Tensor, "*batch 3 height width"]
    ) -> Float[Tensor, "*batch channels h w"]:
        """What all members look at."""
        return self.members[0].encode(frames)

    def read(self, inputs: Float[Tensor, "batch frames views channels h w"]) -> Estimate:
        """Distributions of the actions between the frames, normalised, by all members."""
        return mixture([member.read(inputs) for member in self.members], self.kinds)

    def states(
        self, inputs: Float[Tensor, "batch frames views channels h w"]
    ) -> Float[Tensor, "batch frames state_dim"]:
        """The mean of the states that the members tell, in the data's units.

        Raises:
            ValueError: not all of them tell one, of the same size.
        """
        if not self.state_dim:
            raise ValueError("not all models of this ensemble tell the same robot's state")
        told = [one.states(inputs) for one in self.members if isinstance(one, StateModel)]
        return torch.stack(told).mean(0)


def ensemble(models: list[Path], out: Path) -> Path:
    """Put several action models into one, which reads by all of them.

    It has to be calibrated before it labels.

    Args:
        models: folders of models that were trained apart, such as with another `model.seed`.
        out: folder of the new one, which gets copies of them.

    Returns:
        The new folder.

    Raises:
        DatasetError: fewer than two, models that do not fit together, or `out` is not empty.
    """
    Ensemble([load_action_model(model) for model in models])
    if out.exists() and any(out.iterdir()):
        raise DatasetError(f"{out} is not empty. Choose another folder.")
    names = [f"member_{number}" for number in range(len(models))]
    with whole_folder(out) as unfinished:
        for model, name in zip(models, names, strict=True):
            shutil.copytree(model, unfinished / name)
        described = {CLASS_KEY: "inverse_dynamics.ensemble.Ensemble", "members": names}
        write_json(unfinished / DESCRIPTION, described)
    print(f"wrote {out}. Next: python -m inverse_dynamics calibrate {out} DATASET")
    return out


def _interface(model: ActionModel) -> dict[str, Any]:
    """What members must have in common, by the name that a user knows it by."""
    common = {name: getattr(model, name) for name in MUST_AGREE}
    return common | {"action range": model.action_normalizer.to_json()}
