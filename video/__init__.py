"""Files and simulators to episodes, clips and latents; writing video; metrics; autoencoders."""
