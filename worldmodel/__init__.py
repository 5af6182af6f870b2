"""The latent video diffusion world model, its queries, and the imagined environment.

Importing this package registers `worldmodel/Imagined-v0` with gymnasium; nothing heavy is imported
before one is made.
"""

from gymnasium.envs.registration import register

register(
    "worldmodel/Imagined-v0",
    entry_point="worldmodel.single_environment:ImaginedEnv",
    vector_entry_point="worldmodel.environment:ImaginedVectorEnv",
)
