"""What was measured, and how: benchmarks, comparisons, theory, faults. Their results lie in results/.

What belongs here: programs that produce a figure in the documentation, or that break real processes on purpose. They
may use every folder except cli; of the commands only `limbeck benchmark` runs one of them, the baselines.

Tag: [D] derived or measured here.
"""
