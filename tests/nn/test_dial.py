"""Weights that are best on validation, one after the other."""

from __future__ import annotations

import torch

from longtail.nn.dial import FACTORS, best_weights


def test_each_weight_is_the_best_of_its_factors_and_each_place_is_asked_once() -> None:
    weights, asked = torch.tensor([2.0, 4.0, 0.0]), []

    def value() -> float:
        asked.append(tuple(weights.tolist()))
        one, other, none = weights.tolist()
        return -abs(one - 1.0 - (other < 4)) - abs(other - 2.0) + none  # the first moves once the second has moved

    best_weights(weights, value)
    assert weights.tolist() == [2.0, 2.0, 0.0]
    assert len(set(asked)) == len(asked) <= 1 + 4 * (len(FACTORS) - 1)
    assert {one for one, _, _ in asked} == {2 * factor for factor in FACTORS}
