"""How fast the imagined environment is, against a pixel diffusion model of DIAMOND's cost.

    python benchmarks/imagination.py [MODEL] [--data DATASET --split test]

Prints a table and, last, one JSON line: `rows` (`num_envs`, `steps`, `chunk`, `dtype`,
`frames_per_s`, `reference_frames_per_s`, `ratio`, and the same against the reference in bfloat16),
`default_steps`, `default_chunk`, `memory_gib_256_envs` and, for a trained model, `sampler_steps`:
what more steps cost and bring.

A step is all of it: actions in, sampling, heads, reward, info, latent observations out, autoreset.
The environment runs in whichever of float32 and bfloat16 is faster. The reference is diffusers'
`UNet2DModel` as it comes (float32), 18.2 GFLOP a frame and three passes (DIAMOND's own denoiser
needs 18.3); `reference_bfloat16_frames_per_s` and `ratio_to_bfloat16` are the harder comparison.
All are measured in turns, so that they meet the same machine. Without MODEL, `runs/uwm/model` if it
is there, else an untrained network of the default size: speed does not depend on what the weights
say.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DModel

from video.autoencoder import FrameAutoencoder
from video.metrics import psnr
from video.statistics import Normalizer
from worldmodel.contexts import Contexts
from worldmodel.environment import ImaginedVectorEnv
from worldmodel.heads import FrameHeads
from worldmodel.held_out import HeldOut, read_held_out
from worldmodel.imagination import Precision
from worldmodel.scores import action_following_ratio, forward_dynamics_latents
from worldmodel.uwm import UWM
from worldmodel.world_model import WorldModel

AUTOENCODER = "video/autoencoders/metaworld"
DEFAULT_STEPS = 1
REFERENCE_PASSES = 3
SAMPLER_STEPS = (1, 2, 4, 8, 32)
HORIZONS = (4, 8, 16, 32)
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", type=Path, default=Path("runs/uwm/model"))
    parser.add_argument("--data", default="video/datasets/metaworld", help="for the sampler table")
    parser.add_argument("--split", default="test")
    parser.add_argument("--num-envs", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement's rounds")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    trained = (options.model / "world_model.json").is_file()
    model = load(options.model if trained else None, options.device)
    if options.memory_of:
        print(memory_gib(model, options.memory_of))
        return
    if not trained:
        print(f"{options.model} is not there: an untrained network of the default size, no quality")

    chunks = [1, model.network.block_frames]
    rows = []
    for num_envs in options.num_envs:
        rows += speed_rows(model, num_envs, chunks, options)
    for row in rows:
        print(
            f"N = {row['num_envs']:<4} chunk {row['chunk']}  {row['dtype']:<8} "
            f"{row['frames_per_s']:8.0f} frames/s: {row['ratio']:5.0f} times the reference "
            f"({row['reference_frames_per_s']:.2f}; {row['ratio_to_bfloat16']:.0f} times it in "
            f"bfloat16, {row['reference_bfloat16_frames_per_s']:.2f})"
        )
    result = {
        "rows": rows,
        "default_steps": DEFAULT_STEPS,
        "default_chunk": model.network.block_frames,
        "threads": torch.get_num_threads(),
        "device": options.device,
    }
    if options.device == "cpu":
        result["memory_gib_256_envs"] = measure_memory(options.model, 256)
    if trained:
        result["sampler_steps"] = sampler_table(model, options)
        print(sampler_text(result["sampler_steps"]))
    print(json.dumps(result))


def load(folder: Path | None, device: str) -> WorldModel:
    """A saved world model, or an untrained one of the default size; with heads in any case."""
    if folder is not None:
        model = WorldModel.from_pretrained(folder, device)
    else:
        torch.manual_seed(0)
        frames = torch.zeros(8, 1, 3, 64, 64, dtype=torch.uint8)
        known = torch.ones(8, dtype=torch.bool)
        model = WorldModel(
            network=UWM(latent_channels=8, action_dim=4, state_dim=4).eval().requires_grad_(False),
            autoencoder=FrameAutoencoder.from_pretrained(AUTOENCODER),
            fps=20,
            cameras=("camera",),
            frame_size=(64, 64),
            action_normalizer=Normalizer(-np.ones(4), np.ones(4)),
            state_normalizer=Normalizer(-np.ones(4), np.ones(4)),
            contexts=Contexts(frames, torch.zeros(8, 4), known, [""] * 8),
        )
    if model.heads is None:
        print("no heads in this model: untrained ones, which cost as much")
        network = model.network
        heads = FrameHeads(network.config["width"], network.block_frames, state_dim=4)
        model.heads = heads.eval().requires_grad_(False)
    torch.nn.Module.to(model.network, device)
    torch.nn.Module.to(model.heads, device)
    return model


def speed_rows(
    model: WorldModel, num_envs: int, chunks: list[int], options: argparse.Namespace
) -> list[dict]:
    """Frames/s of the environment and of the reference, one row a chunk."""
    contenders: dict[tuple, Callable[[], int]] = {}
    for dtype in PRECISIONS:
        contenders["reference", dtype] = reference(num_envs, dtype, options.device)
        for chunk in chunks:
            contenders[chunk, dtype] = environment(model, num_envs, chunk, dtype, options)
    rates: dict[tuple, list[float]] = {name: [] for name in contenders}
    for play in contenders.values():
        play()
    for _ in range(options.rounds):
        for name, play in contenders.items():
            rates[name].append(frames_per_second(play, options.seconds))
    rate = {name: statistics.median(values) for name, values in rates.items()}

    slow, halved = rate["reference", "float32"], rate["reference", "bfloat16"]
    rows = []
    for chunk in chunks:
        by_dtype: dict[str, float] = {dtype: rate[chunk, dtype] for dtype in PRECISIONS}
        dtype, fast = max(by_dtype.items(), key=lambda pair: pair[1])
        rows.append(
            {
                "num_envs": num_envs,
                "steps": DEFAULT_STEPS,
                "chunk": chunk,
                "dtype": dtype,
                "frames_per_s": round(fast, 1),
                "reference_frames_per_s": round(slow, 3),
                "ratio": round(fast / slow, 1),
                "reference_bfloat16_frames_per_s": round(halved, 3),
                "ratio_to_bfloat16": round(fast / halved, 1),
                "frames_per_s_by_dtype": {d: round(r, 1) for d, r in by_dtype.items()},
            }
        )
    return rows


def environment(
    model: WorldModel, num_envs: int, chunk: int, dtype: Precision, options: argparse.Namespace
) -> Callable[[], int]:
    """One step of the imagined environment with random actions, episodes ending at the horizon."""
    env = ImaginedVectorEnv(
        model,
        num_envs,
        chunk=chunk,
        steps=DEFAULT_STEPS,
        dtype=dtype,
        device=options.device,
        compile=options.compile,
        terminate_on_success=False,
        autoreset_mode="same_step",
    )
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = env.action_space.sample()

    def play() -> int:
        env.step(actions)
        return num_envs * chunk

    return play


def reference(num_envs: int, dtype: Precision, device: str) -> Callable[[], int]:
    """One frame a row by a pixel U-Net of DIAMOND's cost."""
    torch.manual_seed(0)
    network = UNet2DModel(
        sample_size=64,
        in_channels=15,
        out_channels=3,
        block_out_channels=(64, 64, 64, 64),
        layers_per_block=2,
        down_block_types=("DownBlock2D",) * 4,
        up_block_types=("UpBlock2D",) * 4,
        add_attention=False,
    )
    kind = getattr(torch, dtype)
    network = torch.nn.Module.to(network, device, kind).eval()
    frames = torch.randn(num_envs, 15, 64, 64).to(device, kind)
    time_of = torch.ones(num_envs, device=device)

    @torch.inference_mode()
    def play() -> int:
        for _ in range(REFERENCE_PASSES):
            result = network(frames, time_of).sample
        result.float().cpu()
        return num_envs

    return play


def frames_per_second(play: Callable[[], int], seconds: float) -> float:
    """Frames over wall time, for at least so many seconds."""
    frames, begin = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - begin) < seconds:
        frames += play()
    return frames / elapsed


def measure_memory(model: Path, num_envs: int) -> float:
    """Peak memory of a process of its own that plays so many environments, in GiB."""
    command = [sys.executable, __file__, str(model), "--memory-of", str(num_envs)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(output.splitlines()[-1])


def memory_gib(model: WorldModel, num_envs: int) -> float:
    """Peak resident memory, PyTorch included, of whole episodes at horizon 64."""
    env = ImaginedVectorEnv(model, num_envs, horizon=64, terminate_on_success=False)
    env.reset(seed=0)
    actions = env.action_space.sample()
    for _ in range(65):
        env.step(actions)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def sampler_table(model: WorldModel, options: argparse.Namespace) -> list[dict]:
    """What the number of sampler steps costs and brings, over held-out episodes and by task."""
    held_out = read_held_out(model, options.data, options.split, HORIZONS[-1] + 1)
    tasks = sorted(set(held_out.tasks))
    table = []
    for steps in SAMPLER_STEPS:
        envs = ImaginedVectorEnv(
            model, 32, chunk=model.network.block_frames, steps=steps, device=options.device
        )
        envs.reset(seed=0)
        actions = envs.action_space.sample()
        rate = frames_per_second(lambda envs=envs, actions=actions: _step(envs, actions), 3.0)
        own = forward_dynamics_latents(model, held_out, seed=0, steps=steps)
        other = forward_dynamics_latents(model, held_out, seed=0, steps=steps, swap_actions=True)
        row = {"steps": steps, "frames_per_s": round(rate, 1), "psnr": {}, "by_task": {}}
        for horizon in HORIZONS:
            row["psnr"][str(horizon)] = round(_psnr(model, held_out, own, horizon).mean().item(), 2)
        ratio = action_following_ratio(own, other, held_out, list(HORIZONS))
        row["action_following_ratio"] = {key: round(value, 2) for key, value in ratio.items()}
        error = (own[:, 7] - held_out.latents[:, 8]).square().mean((1, 2, 3, 4))
        at_eight = _psnr(model, held_out, own, 8)
        for task in tasks:
            members = [i for i, name in enumerate(held_out.tasks) if name == task]
            row["by_task"][task] = {
                "psnr_8": round(at_eight[members].mean().item(), 2),
                "latent_mse_8": round(error[members].mean().item(), 4),
            }
        table.append(row)
    return table


def sampler_text(table: list[dict]) -> str:
    """The table for people."""
    lines = ["steps  frames/s  PSNR at " + " / ".join(map(str, HORIZONS)) + "  ratio at 8  by task"]
    for row in table:
        psnr = " / ".join(f"{value:.1f}" for value in row["psnr"].values())
        tasks = ", ".join(f"{name} {score['psnr_8']:.1f}" for name, score in row["by_task"].items())
        ratio = row["action_following_ratio"]["8"]
        lines.append(f"{row['steps']:>5}  {row['frames_per_s']:8.0f}  {psnr}  {ratio:.2f}  {tasks}")
    return "\n".join(lines)


def _psnr(
    model: WorldModel, held_out: HeldOut, latents: torch.Tensor, horizon: int
) -> torch.Tensor:
    """PSNR of every episode's frame at a horizon, mean over its cameras."""
    return psnr(model.decode(latents[:, horizon - 1]), held_out.frames[:, horizon]).mean(1)


def _step(envs: ImaginedVectorEnv, actions: np.ndarray) -> int:
    envs.step(actions)
    return len(actions) * envs.imagination.chunk


if __name__ == "__main__":
    main()
