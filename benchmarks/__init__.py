"""Measurements of the project's own speed; each is a command, `python -m benchmarks.<name>`."""
