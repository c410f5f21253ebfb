"""Plans: what a run will do, what it costs in privacy, and what may be asked of anybody."""
