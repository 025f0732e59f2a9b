"""Small untrained networks of all families, over the sizes that searches visit: what a cost model is fitted on."""

from __future__ import annotations

from itertools import chain, zip_longest

from sekd.models import ConvTasNetConfig, CruseConfig, DccrnConfig, NetworkConfig

MOST = 30

# Sizes, depths, groups, norms and hops vary together, each family from small to large and back, so that any first few
# span the rest: no two networks differ in size alone.
_CRUSE = (
    CruseConfig(width=8),
    CruseConfig(width=32),
    CruseConfig(width=4, depth=2, gru_groups=2),
    CruseConfig(width=16, depth=3, gru_groups=8),
    CruseConfig(width=24, gru_groups=2, norm_horizon_s=None),
    CruseConfig(width=12, depth=2, bands=40, gru_groups=1),
    CruseConfig(width=36, depth=4, gru_groups=1),
    CruseConfig(width=6, depth=4, bands=48, gru_groups=1, n_fft=256, hop=128),
    CruseConfig(width=20, depth=3, gru_groups=1),
    CruseConfig(width=28, depth=4, gru_groups=1, norm_horizon_s=None),
    CruseConfig(width=40, depth=3, gru_groups=4, bands=64),
    CruseConfig(width=4, depth=1, gru_groups=8),
)
_CONV_TASNET = (
    ConvTasNetConfig(filters=64, bottleneck=32, hidden=64, layers=4, stacks=1, hop=64),
    ConvTasNetConfig(),
    ConvTasNetConfig(filters=32, bottleneck=16, hidden=32, layers=2, stacks=1, hop=128),
    ConvTasNetConfig(filters=96, bottleneck=48, hidden=96, layers=5, stacks=2, hop=64),
    ConvTasNetConfig(filters=64, bottleneck=48, hidden=128, layers=3, stacks=2, kernel=32, norm_horizon_s=None),
    ConvTasNetConfig(filters=128, bottleneck=64, hidden=160, layers=6, stacks=1, kernel=32),
    ConvTasNetConfig(filters=48, bottleneck=24, hidden=48, layers=6, stacks=3, hop=32),
    ConvTasNetConfig(filters=64, bottleneck=32, hidden=96, layers=4, stacks=3, kernel=20, hop=80),
    ConvTasNetConfig(filters=256, bottleneck=96, hidden=192, layers=4, stacks=2, kernel=32),
)
_DCCRN = (
    DccrnConfig(),
    DccrnConfig(width=4, depth=3, rnn_width=16),
    DccrnConfig(width=16, rnn_width=64),
    DccrnConfig(width=8, depth=5, rnn_width=64, window_length=512, hop=256),
    DccrnConfig(width=4, rnn_width=32, n_fft=256, depth=5, window_length=256, hop=128),
    DccrnConfig(width=12, depth=4, rnn_width=96),
    DccrnConfig(width=24, depth=5, rnn_width=32),
    DccrnConfig(width=2, depth=6, rnn_width=128),
    DccrnConfig(width=6, depth=4, rnn_width=24, n_fft=128, window_length=128, hop=64),
)


def spread(count: int) -> list[NetworkConfig]:
    """The first ``count`` networks, families in turn. FTF-Net is not among them: no prediction was held against it."""
    turns = chain.from_iterable(zip_longest(_CRUSE, _CONV_TASNET, _DCCRN))
    return [network for network in turns if network is not None][:count]


def name_of(config: NetworkConfig) -> str:
    """``cruse width=8 hop=128``: the family and what is not its default."""
    changed = config.model_dump(exclude_defaults=True)
    return " ".join([str(getattr(config, "family", "?")), *(f"{key}={value}" for key, value in changed.items())])
