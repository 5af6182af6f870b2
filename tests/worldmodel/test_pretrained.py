"""Whether a saved network is of the same sizes as another."""

from worldmodel.pretrained import other_sizes, sizes_of


def test_a_difference_is_named(network):
    saved = sizes_of(network) | {"width": 64}
    assert other_sizes(saved, network) == ["width is 64 there and 48 here"]
    assert other_sizes(sizes_of(network), network) == []


def test_what_was_saved_before_an_argument_was_there_had_its_default(build_network):
    saved = sizes_of(build_network())
    del saved["past_actions"], saved["first_frame"]
    assert other_sizes(saved, build_network()) == []
    lagging = build_network(past_actions=2)
    assert other_sizes(saved, lagging) == ["past_actions is 0 there and 2 here"]


def test_a_checkpoint_that_tells_no_sizes_differs(network):
    assert "width is 256 there and 48 here" in other_sizes({}, network)
    assert "action_dim is None there and 2 here" in other_sizes({}, network)
