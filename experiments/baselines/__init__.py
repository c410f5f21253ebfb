"""What a user could pick instead of limbeck, on the same records: baselines, and `limbeck benchmark`, which runs them beside it.

contract.py   what every method gets and leaves
heads.py      linear heads on public features: how all methods learn
charges.py    what a method's mechanisms cost, by the accounting that plans use
methods.py    the list of all methods, each with its source; grids.toml has what each may choose from
suites.py     what is compared in one run: scenarios, and what is varied; suites.toml has them
choice.py     which of a grid's settings a method is given, by public labels that are used for nothing else
run.py        runs what is missing, and collects what there is; page.py shows it

The methods themselves are in averaging.py, gradients.py, flowers.py, sums.py, answers.py, selecting.py, voting.py, certainty.py and, of
limbeck's own runs, limbeck_runs.py.

Tags: [F: source] a published method or figure; [D] derived or decided here.
"""
