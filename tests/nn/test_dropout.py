"""Dropout: the right share is dropped, the rest scaled, and the same seed drops the same."""

from __future__ import annotations

import pytest
import torch

from longtail.nn.dropout import Dropout, dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_share_p_is_zero_and_the_rest_is_scaled(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    out = dropout(torch.ones(1001, 103, dtype=dtype), p)
    assert out.dtype == dtype
    kept = out != 0
    assert kept.float().mean().item() == pytest.approx(1 - p, abs=0.005)
    assert kept.float().mean(0).std().item() == pytest.approx((p * (1 - p) / 1001) ** 0.5, rel=0.3)  # independent
    assert out[kept].float().mean().item() == pytest.approx(1 / (1 - p), rel=0.01)


def test_the_gradient_passes_where_values_do() -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 7, requires_grad=True)
    out = dropout(x, 0.5)
    out.sum().backward()
    torch.testing.assert_close(x.grad, torch.where(out != 0, 2.0, 0.0))


def test_it_is_seeded_by_torch_and_silent_in_evaluation() -> None:
    layer, x = Dropout(0.4), torch.randn(30)
    first, second, third = (layer(x) for seed in (1, 1, 2) if torch.manual_seed(seed))
    assert torch.equal(first, second) and not torch.equal(first, third)
    layer.eval()
    assert layer(x) is x
