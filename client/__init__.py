"""The data owner's side: it sees records, labels, weights, noise and keys, and decides what it answers.

What belongs here: everything that touches private data, the policy and the ledger that guard it, and the site's
processes. It may use protos, plans, inputs, operators and base. It never imports server.

Tags: [F] another paper, which is named; [D] derived or measured here, with a test.
"""
