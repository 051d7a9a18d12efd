"""Running moments of weight vectors: SWAG (Maddox et al. 2019).

    mean <- mean + (w - mean)/n      m2 <- m2 + (w - mean_before)(w - mean_after)      var = m2/n
    dev  <- w - mean_after           of the last K snapshots

Welford's recurrence in float64 keeps a variance of 1e-8 beside a weight of 0.1, which the
difference of mean square and squared mean does not in float32.
"""

from __future__ import annotations

from collections import deque
from typing import Dict, Mapping, NamedTuple, Optional

import torch
from torch import Tensor


class Part(NamedTuple):
    """A parameter's part of a prior, in float32."""

    mean: Tensor
    var: Tensor
    dev: Optional[Tensor]
    """The kept deviations, `[K, ...]`; none in a diagonal prior."""


class Moments:
    """The moments of the snapshots added so far, of one tensor for each name."""

    def __init__(self, rank: int) -> None:
        """Keeps the last `rank` deviations: none (0), or 2 to 1024."""
        if rank != 0 and not 2 <= rank <= 1024:
            raise ValueError(f"rank is {rank}; expected 0 (a diagonal prior) or 2 to 1024")
        self.rank = rank
        self.count = 0
        self._mean: Dict[str, Tensor] = {}
        self._m2: Dict[str, Tensor] = {}
        self._dev: Dict[str, deque[Tensor]] = {}

    def add(self, weights: Mapping[str, Tensor]) -> None:
        """Adds a snapshot of float64 tensors. One that does not fit changes nothing."""
        for name, w in weights.items():
            if self.count and (name not in self._mean or self._mean[name].shape != w.shape):
                raise ValueError(f"parameter '{name}' is not that of the first snapshot")
            if not torch.isfinite(w).all():
                raise ValueError(
                    f"parameter '{name}' is not finite in snapshot {self.count + 1}; has training "
                    "diverged? The earlier snapshots are kept"
                )
        if self.count and len(weights) != len(self._mean):
            raise ValueError(f"{len(weights)} parameters; the first snapshot had {len(self._mean)}")
        self.count += 1
        for name, w in weights.items():
            mean = self._mean.setdefault(name, torch.zeros_like(w))
            m2 = self._m2.setdefault(name, torch.zeros_like(w))
            before = w - mean
            mean += before / self.count
            after = w - mean
            m2 += before * after
            if self.rank:
                rows = self._dev.setdefault(name, deque(maxlen=self.rank))
                rows.append(after.float())

    def mean(self, name: str) -> Tensor:
        """The mean of `name`, in float64."""
        return self._mean[name]

    def finish(self) -> tuple[Dict[str, Part], int]:
        """The parts by name, and the number of deviations of each.

        The first deviation is zero, because the first snapshot is its own mean. While it is kept it
        counts in the divisor K - 1 but adds nothing: it is left out, and the others are multiplied
        by sqrt((K-2)/(K-1)), which leaves the covariance as it was. Of two it is kept.
        """
        if self.count < 2:
            raise ValueError(f"{self.count} snapshots have no variance; collect at least 2")
        kept = min(self.rank, self.count)
        skip = 1 if kept == self.count and kept > 2 else 0
        scale = ((kept - 2) / (kept - 1)) ** 0.5 if skip else 1.0
        parts = {}
        for name, mean in self._mean.items():
            rows = list(self._dev[name])[skip:] if kept else []
            dev = (torch.stack(rows).double() * scale).float() if rows else None
            parts[name] = Part(mean.float(), (self._m2[name] / self.count).float(), dev)
        return parts, kept - skip

    def state_dict(self) -> dict:
        """Everything `load_state_dict` needs; made of tensors, lists, dicts and numbers."""
        return {
            "rank": self.rank,
            "count": self.count,
            "mean": dict(self._mean),
            "m2": dict(self._m2),
            "dev": {name: list(rows) for name, rows in self._dev.items()},
        }

    def load_state_dict(self, state: Mapping) -> None:
        """Goes on where `state_dict` was taken."""
        if state["rank"] != self.rank:
            raise ValueError(f"the state keeps {state['rank']} deviations; expected {self.rank}")
        self.count = state["count"]
        self._mean = {name: t.clone() for name, t in state["mean"].items()}
        self._m2 = {name: t.clone() for name, t in state["m2"].items()}
        self._dev = {
            name: deque((t.clone() for t in rows), maxlen=self.rank)
            for name, rows in state["dev"].items()
        }
