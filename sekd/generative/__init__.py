"""Generative enhancement: paths between clean and noisy spectra, how they are walked, and how networks learn it."""
