"""Measurements of limbeck's own speed and memory, one command each; results in experiments/results/."""
