from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from worldmodel.rows import choose, put, take


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


@dataclass
class Value:
    number: Tensor
    pair: Pair
    parts: list[Tensor]
    shared: int
    missing: Tensor | None = None


def value(*numbers):
    tensor = torch.tensor(numbers)
    wide = tensor[:, None].expand(-1, 2)
    return Value(tensor, Pair(tensor, wide), [wide], shared=7)


def numbers(result):
    wide = [result.pair.right, *result.parts]
    assert all(part.equal(result.number[:, None].expand(-1, 2)) for part in wide)
    assert result.pair.left.equal(result.number)
    assert result.shared == 7
    assert result.missing is None
    return result.number.tolist()


def test_take_repeats_and_reorders():
    assert numbers(take(value(1, 2, 3), torch.tensor([2, 0, 0]))) == [3, 1, 1]


def test_put_replaces_in_the_order_of_the_rows_and_changes_no_original():
    before = value(1, 2, 3)
    assert numbers(put(before, torch.tensor([2, 0]), value(8, 9))) == [9, 2, 8]
    assert numbers(before) == [1, 2, 3]


def test_choose_goes_row_by_row():
    mask = torch.tensor([True, False, True])
    assert numbers(choose(mask, value(1, 2, 3), value(4, 5, 6))) == [1, 5, 3]
