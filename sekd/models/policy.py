"""Who opens the gates: a small causal network that hears how hard a frame is (Zhao, Yang and Madhu 2026)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sekd.models.gates import GateConfig
from sekd.models.norm import CumulativeNorm, Stats


class Policy(nn.Module):
    """Averages over frequency, normalised over time, a fully connected layer, a GRU, and two logits for each gate."""

    threshold: Tensor

    def __init__(self, config: GateConfig, freqs: int, gates: int, horizon: int | None) -> None:
        super().__init__()
        self.gates, self.hidden = gates, config.hidden
        pooled = max(1, freqs // config.bands)
        self.pool = nn.AvgPool2d((1, pooled))
        self.norm = CumulativeNorm(1, horizon)
        self.full = nn.Linear(freqs // pooled, config.width)
        self.gru = nn.GRU(config.width, config.hidden, batch_first=True)
        self.head = nn.Linear(config.hidden, 2 * gates)
        self.register_buffer("threshold", torch.tensor(config.threshold), persistent=False)

    @property
    def memory(self) -> int:
        """Values to remember of a signal besides the state of the GRU: two statistics, and the last gates."""
        return 2 + self.gates

    def forward(self, x: Tensor, memory: Tensor, count: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compressed magnitudes ``(batch, 1, frame, freq)``, a memory (batch, 2 or more), how many frames came before
        (batch, 1, 1, 1) and the GRU's state; logits (batch, gate, frame, 2) of open and shut, statistics and state."""
        mean, variance = memory[:, :2, None, None].split(1, dim=1)
        x, after = self.norm(self.pool(x), Stats(mean, variance), count)
        out, last = self.gru(torch.relu(self.full(x[:, 0])), hidden.unsqueeze(0).contiguous())
        logits = self.head(out)  # (batch, frame, 2 * gate)
        logits = logits.reshape(*logits.shape[:2], self.gates, 2).transpose(1, 2)
        return logits, torch.cat(after, dim=1).flatten(1), last[0]


def policy_of(network: nn.Module) -> Policy | None:
    """None of a network without gates."""
    return next((part for part in network.modules() if isinstance(part, Policy)), None)
