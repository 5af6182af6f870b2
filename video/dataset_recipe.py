"""What a dataset was made with: going on with it has to give what is asked for now."""

import json
import os
from pathlib import Path
from typing import Any

from video.errors import DatasetError
from video.lerobot_format import STAGING_PATH

RECIPE = "recipe.json"
"""Name of the file in the dataset's folder."""


def check_recipe(out: Path, recipe: dict[str, Any]) -> None:
    """Refuse a folder that was made with other options.

    Args:
        out: the dataset's folder; it need not be there yet.
        recipe: every option that decides about its content, as JSON.

    Raises:
        DatasetError: it was made otherwise, or nobody knows how.
    """
    file = out / RECIPE
    if not file.exists():
        if out.exists() and set(os.listdir(out)) - {STAGING_PATH}:
            raise DatasetError(
                f"{out} is not empty and holds no {RECIPE}, which says what it was made with. "
                "Choose another folder."
            )
        return
    earlier = json.loads(file.read_text())
    changed = [
        f"{name} was {earlier.get(name)}, is now {value}"
        for name, value in json.loads(json.dumps(recipe)).items()
        if earlier.get(name) != value
    ]
    if changed:
        raise DatasetError(
            f"{out} was made with other options: {'; '.join(changed)}. "
            "Repeat the same command, or choose another folder."
        )
