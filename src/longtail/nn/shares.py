"""A share of a batch: what one of several processes computes with."""

from __future__ import annotations

import numpy as np
import torch

from longtail.data.histories import BoolArray
from longtail.nn.batch import SequenceBatch, Sequences
from longtail.nn.layout import lay_out


def share(batch: SequenceBatch, rank: int, size: int) -> SequenceBatch:
    """Every `size`-th user of the batch, from `rank` on, with the targets and negatives that were drawn for all.

    They are as many as those of the others, and as long, since users come by length. Where there are too few for all
    processes, a rank that is left over has the first user, who does not count there.
    """
    users, sequences = len(batch.users), len(batch.sequences.layout.lengths)
    mine = np.zeros(users, np.bool_)
    mine[rank if rank < users else 0 :: size] = True
    # copies of a user's come one after another, users without one first
    kept = np.repeat(mine, sequences // users) if sequences > users else mine[users - sequences :]
    tokens = np.repeat(kept, batch.sequences.layout.lengths.numpy())  # (T,)
    at = batch.at.numpy()
    asked = tokens[at]
    negatives = batch.negatives
    if negatives.items.dim() == 2:  # each target's own
        negatives = negatives._replace(items=negatives.items[torch.from_numpy(asked)])
    return SequenceBatch(
        batch.users[torch.from_numpy(mine)],
        some(batch.sequences, kept),
        torch.from_numpy((np.cumsum(tokens) - 1)[at[asked]]),
        batch.targets[torch.from_numpy(asked)],
        negatives,
        None if batch.whole is None else some(batch.whole, mine),
        batch.ends_only,
    )


def some(sequences: Sequences, kept: BoolArray) -> Sequences:
    """Those of the sequences that are `kept` (B,), in boxes as before."""
    items, layout = sequences
    lengths = layout.lengths.numpy()
    bounds = np.array([box.longest for box in layout.boxes], np.int64)
    return Sequences(items[torch.from_numpy(np.repeat(kept, lengths))], lay_out(lengths[kept], bounds))
