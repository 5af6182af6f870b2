"""How MuJoCo draws where there is no display: it has to be told before anybody imports it.

RL libraries import it, too, and a simulator in the same process could not draw afterwards.
"""

import os
import sys


def without_display() -> None:
    """Let MuJoCo draw by EGL on Linux, unless MUJOCO_GL says otherwise."""
    if sys.platform == "linux":
        os.environ.setdefault("MUJOCO_GL", "egl")
