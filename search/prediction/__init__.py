"""Latencies that are predicted, and always called so: a cost model fitted to measurements of small networks."""
