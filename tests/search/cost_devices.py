"""Devices whose costs are known, and networks for them, for tests of what is fitted to measurements."""

import numpy as np

from search.prediction.features import CACHES_KIB

TRUE = {"nodes": 0.5, "recurrent_nodes": 4.0, "values_k": 0.6, "macs_k": 0.02}  # microseconds of each
IN_CACHE = dict.fromkeys((f"weights_kib_over_{cache}" for cache in CACHES_KIB), 0.0)


def networks(rng, count):
    """Figures of ``count`` networks of many sizes, drawn apart from each other."""
    made = []
    for _ in range(count):
        macs = {f"{kind}_macs_k": float(np.exp(rng.uniform(3, 8))) for kind in ("conv", "matmul", "recurrent")}
        made.append(
            {
                "nodes": float(rng.integers(60, 900)),
                "recurrent_nodes": float(rng.integers(0, 9)),
                "values_k": float(np.exp(rng.uniform(2, 6.5))),
                "macs_k": sum(macs.values()),
                **macs,
                **IN_CACHE,
            }
        )
    return made


def measured(figures, rng, noise=0.05, costs=TRUE):
    """Milliseconds on the device whose costs are ``costs``, with a relative error."""
    return [sum(costs[n] * each[n] for n in costs) / 1000 * np.exp(noise * rng.standard_normal()) for each in figures]
