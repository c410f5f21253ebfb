"""Plans: what a run will do, what it costs in privacy, and what a plan may ask.

What belongs here: the schema of a plan, its closed lists and bounds, accounting and composition, sparsity paths.
Everything in a plan is public. It may use operators, inputs and base; it knows no wire and no side.

Tags: [F] another paper, which is named; [D] derived or measured here, with a test.
"""
