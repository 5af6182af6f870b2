"""Random 16-frame clips a second out of the DataLoader, from video and from stored latents.

Prints one JSON line. Latents are encoded first, into a temporary folder unless they lie beside the
data already:

    python benchmarks/loading.py [--dataset FOLDER] [--autoencoder FOLDER] [--workers 2]
"""

import itertools
import json
import tempfile
import time
from pathlib import Path

from jsonargparse import auto_cli

from video.datamodule import ClipDataModule, ClipSource


def loading(
    dataset: str = "video/datasets/metaworld",
    autoencoder: str = "video/autoencoders/metaworld",
    clip_frames: int = 16,
    batch_size: int = 32,
    workers: int = 2,
    seconds: float = 10.0,
) -> None:
    """Measure and print.

    Args:
        dataset: what to read.
        autoencoder: whose latents.
        clip_frames: frames a clip.
        batch_size: clips a batch.
        workers: processes that load.
        seconds: how long to measure each.
    """
    with tempfile.TemporaryDirectory() as folder:
        latents = None if (Path(dataset) / "latents").is_dir() else folder
        source = ClipSource(dataset, latents=latents)

        def clips_per_second(num_workers: int, **options) -> float:
            data = ClipDataModule(
                [source], clip_frames, batch_size, num_workers=num_workers, **options
            )
            data.prepare_data()
            data.setup()
            epochs = itertools.repeat(data.train_dataloader())
            batches = itertools.chain.from_iterable(epochs)
            for _ in range(2 * num_workers + 1):
                next(batches)
            count, start = 0, time.perf_counter()
            while (spent := time.perf_counter() - start) < seconds:
                next(batches)
                count += batch_size
            return round(count / spent, 1)

        stored = {"autoencoder": autoencoder, "latents": "require", "encode_first": True}
        figures = {
            "mp4_clips_per_s": clips_per_second(workers),
            "latent_clips_per_s": clips_per_second(workers, **stored),
            "latent_clips_per_s_without_workers": clips_per_second(0, **stored),
        }
    ratio = figures["latent_clips_per_s"] / figures["mp4_clips_per_s"]
    settings = {"clip_frames": clip_frames, "batch_size": batch_size, "workers": workers}
    print(json.dumps({**figures, "ratio": round(ratio, 1), **settings}))


if __name__ == "__main__":
    auto_cli(loading)
