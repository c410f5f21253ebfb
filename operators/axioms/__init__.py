"""Checkers: they search the axioms of softening operators and of pools for counterexamples, and show what they find.

A search that finds nothing proves nothing; it reports the number of trials and how close it came to a violation. What
it finds is real: a counterexample is one point, and `Counterexample.reproduce` evaluates it again.

The axioms of softening operators [P, wording of 5 is D]; the criteria for calling them broken are [D]:

1 ranking      q_j above q_i though p_i > p_j, or no lower though p_i is above p_j by more than 8 sqrt(eps) max(1, T)
               (an operator may be flat to second order); entries count where p^(1/T) does not underflow.
2 continuity   a jump that stays while the two ends, in p or in T, are brought together to the resolution of the
               floating-point format.
3 entropy      H at T' below H at T for T' > T.
4 identity     F_1(p) differs from p in L1.
5 boundary     more than 0.01 in L1 from uniform at T = 1e12, or from the one-hot (uniform over ties) at T = 1e-6, for
               p >= 1e-4 and the top two 1 % apart or tied: the limits are pointwise, not uniform in p.

The premise is checked before these: F_T maps distributions to distributions. The axioms of pools are listed in
`axioms.pooling`.

Modules: `findings` the types, `measures` how large a violation is and what rounding explains, `narrowing` the halving
that tells a jump from a steep stretch, `search` the checker of softening operators, `majorisation` a sufficient
condition, `pooling` the checker of pools.
"""

from limbeck.operators.axioms.findings import (
    Axiom,
    Counterexample,
    Finding,
    PoolingAxiom,
    PoolingCounterexample,
    PoolingFinding,
    Report,
)
from limbeck.operators.axioms.majorisation import Failure, Majorisation, majorisation
from limbeck.operators.axioms.measures import Factory
from limbeck.operators.axioms.pooling import check_pooling
from limbeck.operators.axioms.search import check

__all__ = [
    "Axiom",
    "Counterexample",
    "Factory",
    "Failure",
    "Finding",
    "Majorisation",
    "PoolingAxiom",
    "PoolingCounterexample",
    "PoolingFinding",
    "Report",
    "check",
    "check_pooling",
    "majorisation",
]
