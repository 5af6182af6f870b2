"""The latent video diffusion world model, its queries, and rollouts to look at."""
