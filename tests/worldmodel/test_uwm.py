from pathlib import Path

import pytest
import torch
import yaml

from worldmodel.uwm import UWM


def inputs(blocks, network, views=1, size=4):
    generator = torch.Generator().manual_seed(2)
    frame = (views, network.latent_channels, size, size)
    return {
        "anchor": torch.randn(2, blocks, 2, *frame, generator=generator),
        "latents": torch.randn(2, blocks, 4, *frame, generator=generator),
        "actions": torch.randn(2, blocks, 4, network.action_dim, generator=generator),
        "latent_time": torch.rand(2, blocks, generator=generator),
        "action_time": torch.rand(2, blocks, 4, generator=generator),
    }


def test_shapes_with_several_views_and_any_picture_size(build_network):
    network = build_network(views=2)
    for views, size in ((1, 4), (2, 4), (2, 8)):
        given = inputs(1, network, views, size)
        prediction = network(**given)
        assert prediction.latents.shape == given["latents"].shape
        assert prediction.actions.shape == given["actions"].shape


def test_a_fresh_network_predicts_the_last_frame():
    network = UWM(latent_channels=3, action_dim=2, width=48, depth=1, heads=2)
    given = inputs(1, network)
    last = given["anchor"][:, :, -1:].expand_as(given["latents"])
    assert network(**given).latents.equal(last)


@pytest.mark.parametrize("name", ["anchor", "latents", "actions", "latent_time", "action_time"])
def test_every_input_reaches_video_and_actions(network, name):
    given = inputs(1, network)
    before = network(**given)
    after = network(**given | {name: given[name] * 0.5})
    assert (before.latents - after.latents).abs().max() > 1e-4
    assert (before.actions - after.actions).abs().max() > 1e-4


def test_an_absent_action_does_not_reach_the_modulation(network):
    """Its noise stands in its own token only, so frames depend on it weakly, not by name."""
    hints = []
    network.embed_condition.register_forward_pre_hook(lambda _, args: hints.append(args[0]))
    given = inputs(1, network) | {"action_time": torch.ones(2, 1, 4)}
    network(**given)
    network(**given | {"actions": given["actions"] + 1})
    assert hints[0].equal(hints[1])


def test_later_blocks_never_reach_earlier_ones(build_network):
    network = build_network(history_blocks=1)
    given = inputs(3, network)
    before = network(**given)
    latents = given["latents"].clone()
    latents[:, 1] += 1
    after = network(**given | {"latents": latents})
    assert before.latents[:, 0].equal(after.latents[:, 0])
    assert not before.latents[:, 2].equal(after.latents[:, 2])


def test_wrong_blocks_and_views_are_named(network, shapes_unchecked):
    given = inputs(1, network)
    with pytest.raises(ValueError, match="a block of 3 frames; this model has 4"):
        network(**given | {"latents": given["latents"][:, :, :3]})
    with pytest.raises(ValueError, match="2 camera views; this model was built for 1"):
        network(**inputs(1, network, views=2))
    with pytest.raises(ValueError, match="width=50 is not a multiple of heads=4"):
        UWM(latent_channels=3, action_dim=2, width=50, heads=4)
    with pytest.raises(ValueError, match="past_actions=-1 is a number of actions"):
        UWM(latent_channels=3, action_dim=2, past_actions=-1)


def test_saved_and_loaded_it_is_the_same(network, tmp_path):
    network.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.bin"))
    loaded = UWM.from_pretrained(tmp_path, low_cpu_mem_usage=False)
    given = inputs(1, network)
    assert loaded(**given).latents.equal(network(**given).latents)


def test_bfloat16_autocast_stays_close(network):
    given = inputs(1, network)
    with torch.autocast("cpu", torch.bfloat16):
        rough = network(**given)
    exact = network(**given)
    assert (rough.latents - exact.latents).abs().mean() < 0.05


@pytest.mark.parametrize(("size", "millions"), [("cpu", 6), ("small", 30), ("base", 155)])
def test_size_overlays_have_the_size_they_say(size, millions):
    overlay = yaml.safe_load(Path(f"configs/size/{size}.yaml").read_text())
    sizes = overlay["model"]["init_args"]["architecture"]
    with torch.device("meta"):
        network = UWM(latent_channels=8, action_dim=4, **sizes)
    count = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    assert count == pytest.approx(millions, rel=0.05)
    clip = overlay.get("data", {}).get("init_args", {}).get("clip_frames", 10)
    assert clip == 2 + 4 * (2 + sizes.get("history_blocks", 0))
