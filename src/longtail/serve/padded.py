"""The user encoder of a trained method as one graph of free sizes: what is written as ONNX. The only padded forward."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from longtail.methods.base import TrainedMethod
from longtail.nn.layout import Box, Layout

OPSET = 17
INPUTS = ("vectors", "lengths", "whole")


class Padded(Layout):
    """A layout of B sequences in one box, all padded on the right to L: every position is a token.

    The packed layout's splits and copies depend on lengths, which a traced graph would freeze; this one has none.
    """

    @classmethod
    def of(cls, vectors: Tensor, lengths: Tensor) -> Padded:
        """Of sequences of vectors (B, L, D) with `lengths` (B,)."""
        B, L = vectors.shape[0], vectors.shape[1]
        places = torch.ones_like(vectors[:, :, 0], dtype=torch.int64).cumsum(1) - 1  # (B, L)
        return cls(lengths, torch.arange(B) * L + lengths - 1, places.flatten(), None, (Box(B, L),))

    def pad(self, x: Tensor) -> list[Tensor]:
        """(T, ..., d) to the one box (B, L, ..., d)."""
        return [x.reshape(*self.boxes[0], *x.shape[1:])]

    def unpad(self, boxes: Sequence[Tensor]) -> Tensor:
        """The one box back to (T, ..., d)."""
        return boxes[0].flatten(0, 1)

    def last(self, x: Tensor) -> Tensor:
        """(T, ..., d) to each sequence's last token, (B, ..., d)."""
        return x.index_select(0, self.ends)

    def rows(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, ...) whole."""
        return (x,)

    def real(self) -> list[Tensor]:
        """(B, L), False at padding."""
        return [self.steps.reshape(*self.boxes[0]) < self.lengths[:, None]]


class Encoder(nn.Module):
    """Item vectors of sequences to user vectors as they are scored with."""

    def __init__(self, method: TrainedMethod) -> None:
        super().__init__()
        self.method = method
        self.eval()

    def forward(self, vectors: Tensor, lengths: Tensor, whole: Tensor) -> Tensor:
        """Vectors (B, L, D), padded on the right, lengths (B,), and those of the whole histories (B,), to (B, D)."""
        layout = Padded.of(vectors, lengths)
        return self.method.served(self.method.final(vectors.flatten(0, 1), layout), whole)


def to_onnx(method: TrainedMethod, D: int) -> bytes:
    """The encoder as an ONNX model, inputs as `INPUTS`, whose batch and length are free.

    By the exporter that traces: on this code the newer one takes half a minute, this one half a second, and what either
    makes is compared with the model before it is used (`longtail.serve.parity`).
    """
    vectors, lengths = torch.zeros(2, 3, D), torch.tensor([3, 2])
    axes = {"vectors": {0: "B", 1: "L"}, "lengths": {0: "B"}, "whole": {0: "B"}, "user": {0: "B"}}
    made = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter about itself
        torch.onnx.export(
            Encoder(method), (vectors, lengths, lengths), made,  # type: ignore[arg-type]  # the tracing exporter takes one
            dynamo=False, opset_version=OPSET,
            input_names=list(INPUTS), output_names=["user"], dynamic_axes=axes,
        )  # fmt: skip
    return made.getvalue()
