"""Trials on a cluster, by Ray Tune: nothing outside this folder imports ray."""
