"""What one embodiment's actions are: kinds, names and range, checked against the data."""

from dataclasses import dataclass

from inverse_dynamics.kinds import fit_to_kinds
from video.embodiments import Embodiment, part_of
from video.errors import DatasetError
from video.statistics import Normalizer

Settings = list[str] | dict[str, list[str]] | None
"""One for each action dimension; by embodiment if there are several."""


@dataclass(frozen=True)
class Head:
    """The actions of one embodiment.

    Attributes:
        embodiment: whose they are, and their place among those of all.
        kinds: of the dimensions, see `kinds.py`.
        names: of the dimensions.
        normalizer: their range, which of an angle is a whole turn.
    """

    embodiment: Embodiment
    kinds: list[str]
    names: list[str]
    normalizer: Normalizer


def fit_head(
    embodiment: Embodiment, normalizer: Normalizer, kinds: Settings, names: Settings
) -> Head:
    """Put together what is wanted of an embodiment and what its data are.

    Args:
        embodiment: one of the data's.
        normalizer: the range of all embodiments' actions, side by side.
        kinds: wanted for each dimension; None takes all for numbers.
        names: wanted for each dimension; None counts them.

    Raises:
        DatasetError: kinds or names that do not fit the actions.
    """
    own = part_of(normalizer, embodiment.actions)
    chosen_kinds = _of(embodiment.name, kinds, "kinds") or ["number"] * own.dim
    chosen_names = _of(embodiment.name, names, "action_names") or [str(n) for n in range(own.dim)]
    if len(set(chosen_names)) != own.dim or len(chosen_names) != own.dim:
        whose = f"those of {embodiment.name!r}" if embodiment.name else "the data"
        raise DatasetError(
            f"model.action_names is {chosen_names}, but {whose} have {own.dim} action dimensions. "
            "Give each a name of its own, or leave action_names out."
        )
    return Head(embodiment, chosen_kinds, chosen_names, fit_to_kinds(own, chosen_kinds))


def _of(embodiment: str, settings: Settings, setting: str) -> list[str] | None:
    """An embodiment's own setting.

    Raises:
        DatasetError: one list for several embodiments, or none for this one.
    """
    if not isinstance(settings, dict):
        if settings is not None and embodiment:
            raise DatasetError(
                f"model.{setting} is {settings}, but the data name the embodiment {embodiment!r}. "
                f"Write model.{setting} as '{{{embodiment}: [...]}}', or leave it out."
            )
        return settings
    if embodiment not in settings:
        raise DatasetError(
            f"model.{setting} names the embodiments {list(settings)}, but the data have "
            f"{embodiment!r}. Add it, or name the 'embodiment' of the datasets accordingly."
        )
    return settings[embodiment]
