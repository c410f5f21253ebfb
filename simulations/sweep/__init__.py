"""Sweeps and comparisons: one scenario at every point of a grid and for several seeds, and runs side by side on one page.

- `cells`: what is run: the grid, and its seeds.
- `crew`: the processes that run it, several at once.
- `baseline`: a run without privacy, outside the protocol.
- `run`: a sweep from its settings to its page; it goes on where it was stopped.
- `rows`: one row per run, its columns with their units, and what differs between runs.
- `page`: the page, the tables of values and the summary.
"""
