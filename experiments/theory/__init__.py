"""Experiments on the claims of the founding paper (arXiv 2601.03195): one command each, results in `experiments/results/theory/`."""
