"""Networks that hear a segment at a time: a stream whose hops are as long as segments, less what they overlap."""

from __future__ import annotations

from abc import abstractmethod

import torch
from pydantic import Field
from torch import Tensor

from sekd.config import Frozen
from sekd.models.base import SAMPLE_RATE, State, WaveEnhancer

AT_ONCE = 8  # segments of a long signal that run together, so that memory does not grow with it


class SegmentConfig(Frozen):
    """Mixed into a family's configuration: how long its segments are, in STFT frames and hops."""

    segment_frames: int = Field(64, ge=8)
    overlap_hops: int = Field(6, ge=1)  # faded from one segment into the next


class SegmentEnhancer(WaveEnhancer):
    """A network on whole segments of samples; ``segments`` is the only method that a family writes.

    Neighbours overlap and are faded into each other, so that the edges of a segment, where the network hears one
    side only, weigh least. A sample waits until its segment is full.
    """

    samples: int  # of a segment
    overlap: int
    fade: Tensor

    def set_segments(self, samples: int, overlap: int) -> None:
        """Raises ValueError where segments overlap by more than a half."""
        if 2 * overlap > samples:
            raise ValueError(f"segments of {samples} samples overlap by {overlap}: at most half of them can")
        self.samples, self.overlap, self.hop = samples, overlap, samples - overlap
        self.register_buffer("fade", (torch.arange(overlap) + 0.5) / overlap, persistent=False)

    @abstractmethod
    def segments(self, noisy: Tensor) -> Tensor:
        """``(segment, sample)`` to the same, enhanced."""

    @property
    def segment_ms(self) -> float:
        return 1000 * self.samples / SAMPLE_RATE

    @property
    def delay(self) -> int:
        return self.overlap

    def state_sizes(self) -> tuple[int, int, int]:
        """What was heard last, nothing, and what still fades out."""
        return self.overlap, 1, self.overlap

    def hops(self, wave: Tensor, state: State) -> tuple[Tensor, State]:
        heard = torch.cat([state.conv_cache, wave], dim=1)
        count, batch = wave.shape[1] // self.hop, wave.shape[0]
        cut = heard.unsqueeze(1) if count == 1 else heard.unfold(1, self.samples, self.hop)
        rows = cut.reshape(batch * count, self.samples)
        made = self.segments(rows) if count == 1 else torch.cat([self.segments(part) for part in rows.split(AT_ONCE)])
        begin, middle, end = made.reshape(batch, count, -1).split(
            [self.overlap, self.samples - 2 * self.overlap, self.overlap], dim=2
        )  # fmt: skip
        fading = end * (1 - self.fade)
        before = state.inter_cache.unsqueeze(1)
        if count > 1:
            before = torch.cat([before, fading[:, :-1]], dim=1)
        enhanced = torch.cat([begin * self.fade + before, middle], dim=2).flatten(1)
        return enhanced, State(heard[:, -self.overlap :], state.tra_cache, fading[:, -1])
