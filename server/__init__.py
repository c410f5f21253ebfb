"""The coordinator's side: it sees only what `limbeck.protos` decodes.

What belongs here: asking sites, pooling their answers, training and pruning the student, and the run's record. It may
use protos, plans, inputs, operators and base. It never imports client.

Tag: [D] derived or measured here, with a test.
"""
