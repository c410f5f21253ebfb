"""What was measured: benchmarks, comparisons, theory, faults; results lie in results/."""
