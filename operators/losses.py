"""Distillation losses of student logits against truncated targets (ids, probabilities, tail mass), never made dense.

A truncated target does not say how its tail mass is spread over the classes it does not keep. So both sides are made
coarse: the kept classes one by one, and all others together as one tail bucket, of mass r in the target and 1 - S in
the student (S is the student's mass on the kept ids). Every loss here is a divergence of those k + 1 masses. A slot of
probability 0 is padding, not a bucket; its class belongs to the tail. By the data-processing inequality this is the
smallest value of the divergence over all full targets that truncate to the given one, attained where the target's tail
has the student's own proportions [D]: the loss never charges a student for what the teacher did not say, and its
gradient moves the tail classes only together, each in proportion to its own probability. To spread r evenly, as
`Truncated.dense` does, is to claim that the teacher's tail is flat; it pulls a student's tail towards uniform at any K,
and is right only where dense targets are wanted anyway (a pool of many truncated answers at small K). For such dense
targets the same functions take a tensor (N, K), in which every class is a bucket.

The gradient is closed-form [D]: with respect to the student's (tempered) logits, KL(target || student) has s_j - p_j on
the kept ids and s_j - r s_j / (1 - S) off them; the other losses change only the k + 1 factors, one per bucket, of the
masses s. One pass computes loss and gradient, in chunks of rows that stay in cache: what it allocates beyond the
gradient does not grow with N.

Shape legend: N samples, K classes, k kept entries, B rows of a chunk, b buckets: k + 1, or K if no class is left for a
tail. A bucket without classes (a padding slot, or the tail of a row that names all classes) is absent: no mass on
either side, log mass set to 0. Small arrays have buckets first (bB): sums over few columns of many rows are several
times slower.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from limbeck.base import check
from limbeck.base.errors import SettingError
from limbeck.operators.truncated import Truncated, rows_per_chunk

__all__ = ["FLOOR", "hinton", "jensen_shannon", "reverse", "ttm"]

FLOOR = 2.0**-20

# From the target's masses, the logarithms of the student's masses, these masses, and which buckets are absent (None: no
# bucket), to the divergence of each row and its gradient with respect to the logarithms of the unnormalised student
# masses.
Rule = Callable[[Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]


def ttm(target: Truncated | Tensor, logits_NK: Tensor, *, in_place: bool = False) -> Tensor:
    """Transformed teacher matching: mean KL(target || softmax(z)), the student untempered [F: arXiv 2402.11148].

    Nats, per row.

    - target: a truncated target (its tail is one bucket on both sides) or dense probabilities (N, K). It is a constant:
      no gradient flows to it.
    - logits_NK: finite, of any floating dtype; float64 is computed in float64, everything else in float32.
    - in_place: write the gradient over the logits, so that nothing of size N x K is allocated. Their values are lost,
      and autograd refuses a backward pass that would still need them.

    Guarantees: >= 0, and 0 only if target and student agree on every bucket; a lower bound of KL(q || softmax(z)) for
    every full q that truncates to the target. An empty batch gives 0.

    Raises SettingError for shapes that do not fit, or in_place with logits that are a leaf.
    """
    return _mean(_forward_kl, target, logits_NK, in_place=in_place)


def hinton(target: Truncated | Tensor, logits_NK: Tensor, temperature: float, *, in_place: bool = False) -> Tensor:
    """Hinton's loss: T^2 times the mean KL(target || softmax(z / T)), target softened at the same T [F: arXiv 1503.02531].

    The buckets are those of the tempered student: its tail mass is that of softmax(z / T) beyond the kept ids, to be
    matched by the mass that the target's own softening left there ("soften, then truncate"). Everything else is as for
    `ttm`.
    """
    check.positive(temperature=temperature)
    return _mean(_forward_kl, target, logits_NK, temperature=temperature, weight=temperature**2, in_place=in_place)


def reverse(target: Truncated | Tensor, logits_NK: Tensor, *, floor: float = FLOOR, in_place: bool = False) -> Tensor:
    """Mean KL(softmax(z) || target), the student untempered: it may drop what the target has, but not add to it.

    Nats, per row.

    This divergence is infinite where the target has no mass, as the tail of a sampled target usually has none. So
    buckets below `floor` are raised to it and the target is normalised again: a student's mass m there costs about m
    log(m / floor). The default is the smallest probability on the wire. Everything else is as for `ttm`, with respect
    to the raised target.

    floor: 0 < floor < 1.
    """
    if not 0 < floor < 1:
        raise SettingError(f"Expected 0 < floor < 1, got {floor!r}.")

    def rule(t_bB: Tensor, log_s_bB: Tensor, s_bB: Tensor, absent_bB: Tensor | None) -> tuple[Tensor, Tensor]:
        raised_bB = t_bB.clamp(min=floor)
        total_B = (raised_bB if absent_bB is None else raised_bB.masked_fill(absent_bB, 0)).sum(0)
        excess_bB = log_s_bB - (raised_bB / total_B).log_()
        value_B = (s_bB * excess_bB).sum(0)
        return value_B, s_bB * (excess_bB - value_B)

    return _mean(rule, target, logits_NK, in_place=in_place)


def jensen_shannon(target: Truncated | Tensor, logits_NK: Tensor, *, in_place: bool = False) -> Tensor:
    """Mean Jensen-Shannon divergence, (KL(target || m) + KL(softmax(z) || m)) / 2 with m the midpoint of both.

    Nats, per row.

    Guarantees: symmetric and within [0, log 2], also if either side has buckets without mass. Everything else is as for
    `ttm`.
    """
    return _mean(_jensen_shannon, target, logits_NK, in_place=in_place)


def _forward_kl(t_bB: Tensor, log_s_bB: Tensor, s_bB: Tensor, _absent_bB: Tensor | None) -> tuple[Tensor, Tensor]:
    value_B = t_bB.clamp(min=torch.finfo(t_bB.dtype).tiny).log_().sub_(log_s_bB).mul_(t_bB).sum(0)
    return value_B, (s_bB * t_bB.sum(0)).sub_(t_bB)


def _jensen_shannon(t_bB: Tensor, log_s_bB: Tensor, s_bB: Tensor, _absent_bB: Tensor | None) -> tuple[Tensor, Tensor]:
    log_t_bB = t_bB.log()
    log_m_bB = torch.logaddexp(log_t_bB, log_s_bB) - math.log(2)
    excess_bB = log_s_bB - log_m_bB
    student_B = (s_bB * excess_bB).sum(0)
    teacher_B = torch.where(t_bB > 0, t_bB * (log_t_bB - log_m_bB), 0).sum(0)
    return (teacher_B + student_B) / 2, s_bB * (excess_bB - student_B) / 2


def _mean(
    rule: Rule,
    target: Truncated | Tensor,
    logits_NK: Tensor,
    *,
    temperature: float = 1,
    weight: float = 1,
    in_place: bool = False,
) -> Tensor:
    shape = (len(target), target.classes) if isinstance(target, Truncated) else tuple(target.shape)
    if logits_NK.ndim != 2 or tuple(logits_NK.shape) != shape:
        raise SettingError(f"Expected logits of the target's shape {shape}, got {tuple(logits_NK.shape)}.")
    wanted = torch.is_grad_enabled() and logits_NK.requires_grad
    if in_place and wanted and logits_NK.is_leaf:
        raise SettingError("Expected in_place = False for logits that are a leaf, got True: it would overwrite a parameter.")
    loss: Tensor = _Loss.apply(logits_NK, target, rule, temperature, weight, wanted, in_place)
    return loss


class _Loss(torch.autograd.Function):
    """The mean of a rule over rows, with the gradient computed in the same pass."""

    @staticmethod
    def forward(
        ctx: Any,
        logits_NK: Tensor,
        target: Truncated | Tensor,
        rule: Rule,
        temperature: float,
        weight: float,
        wanted: bool,
        in_place: bool,
    ) -> Tensor:
        source_NK = logits_NK.detach()
        gradient_NK = None
        if wanted:
            gradient_NK = source_NK if in_place else torch.empty_like(source_NK)
            ctx.save_for_backward(*(() if in_place else (logits_NK,)))
        ctx.arguments = (target, rule, temperature, weight)
        ctx.gradient_NK = gradient_NK
        return _pass(source_NK, gradient_NK, *ctx.arguments)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        # The gradient is handed over, not copied; a second pass through a retained graph computes it again.
        gradient_NK, ctx.gradient_NK = ctx.gradient_NK, None
        if gradient_NK is None:
            if not ctx.saved_tensors:
                raise RuntimeError("Expected one backward pass after in_place = True, got another: the logits are gone.")
            (logits_NK,) = ctx.saved_tensors
            gradient_NK = torch.empty_like(logits_NK)
            _pass(logits_NK, gradient_NK, *ctx.arguments)
        # The outer gradient is usually 1. Reading it costs nothing on a CPU but stalls other devices.
        if outer.device.type != "cpu" or outer.item() != 1:
            gradient_NK.mul_(outer)
        return (gradient_NK, *[None] * 6)


@torch.no_grad()
def _pass(
    logits_NK: Tensor, gradient_NK: Tensor | None, target: Truncated | Tensor, rule: Rule, temperature: float, weight: float
) -> Tensor:
    """The loss; its gradient is written to `gradient_NK`, which may be the logits themselves."""
    samples, classes = logits_NK.shape
    working = torch.float64 if logits_NK.dtype == torch.float64 else torch.float32
    total = logits_NK.new_zeros((), dtype=torch.float64)
    if samples == 0:
        return total.to(working)
    rows = rows_per_chunk(logits_NK)
    direct = gradient_NK if gradient_NK is not None and gradient_NK.dtype == working else None
    work_NK = logits_NK.new_empty(min(rows, samples), classes, dtype=working) if direct is None else direct
    scale = weight / (temperature * samples)
    # Reading is cheap on a CPU but stalls other devices: there every target is assumed to have padding.
    padded = isinstance(target, Truncated) and (target.p_Nk.device.type != "cpu" or not bool((target.p_Nk > 0).all()))
    for first in range(0, samples, rows):
        logits_BK = logits_NK[first : first + rows]
        work_BK = work_NK[: len(logits_BK)] if direct is None else direct[first : first + rows]
        if isinstance(target, Truncated):
            part = target.rows(slice(first, first + rows))
            value_B = _truncated(logits_BK, work_BK, part, rule, temperature, scale, gradient_NK is not None, padded)
        else:
            value_B = _dense(logits_BK, work_BK, target[first : first + rows], rule, temperature, scale)
        total += value_B.sum()
        if gradient_NK is not None and direct is None:
            gradient_NK[first : first + rows] = work_BK
    return total.mul_(weight / samples).to(working)


def _dense(logits_BK: Tensor, work_BK: Tensor, target_BK: Tensor, rule: Rule, temperature: float, scale: float) -> Tensor:
    """Divergence of each row; the gradient is written to `work_BK`, which may be the logits."""
    log_s_BK = (logits_BK - logits_BK.amax(-1, keepdim=True).to(work_BK.dtype)).div_(temperature)
    value_B, gradient_KB = rule(target_BK.to(work_BK.dtype).t(), *_masses(log_s_BK.t()), None)
    torch.mul(gradient_KB.t(), scale, out=work_BK)
    return value_B


def _truncated(
    logits_BK: Tensor,
    work_BK: Tensor,
    target: Truncated,
    rule: Rule,
    temperature: float,
    scale: float,
    wanted: bool,
    padded: bool,
) -> Tensor:
    """Divergence of each row. `work_BK` may be the logits; it receives the gradient if `wanted`, else it is undefined."""
    ids_Bk, kept, tail = target.ids_Nk, target.kept, padded or target.kept < target.classes
    # Relative to one kept logit, so that an offset common to all logits of a row costs no digits.
    torch.sub(logits_BK, logits_BK.gather(1, ids_Bk[:, :1]).to(work_BK.dtype), out=work_BK)
    t_bB, log_s_bB = work_BK.new_empty(2, kept + tail, len(work_BK))
    t_bB[:kept] = target.p_Nk.t()
    kept_Bk = work_BK.gather(1, ids_Bk)
    torch.div(kept_Bk.t(), temperature, out=log_s_bB[:kept])
    absent_bB = None
    if tail:
        # The tail is summed by itself, relative to its own largest logit: the difference 1 - S would lose all digits
        # for a confident student.
        named_Bk = target.p_Nk > 0
        gone_Bk = (
            kept_Bk.masked_fill_(named_Bk, -math.inf) if padded else work_BK.new_full((1, 1), -math.inf).expand_as(ids_Bk)
        )
        work_BK.scatter_(1, ids_Bk, gone_Bk)
        largest_B1 = work_BK.amax(-1, keepdim=True)
        t_bB[kept] = target.tail_N
        if padded:
            # A row that names all its classes has an empty tail. NaN that arises there below is masked, or overwritten
            # class by class.
            absent_bB = torch.cat([named_Bk.logical_not().t(), largest_B1.t() == -math.inf])
            t_bB.masked_fill_(absent_bB, 0)
        rate = math.log2(math.e) / temperature
        offset_B1 = largest_B1 * -rate
        torch.add(offset_B1, work_BK, alpha=rate, out=work_BK).exp2_()
        sum_B = work_BK.sum(-1)
        torch.sub(sum_B.log(), offset_B1.squeeze(-1), alpha=math.log(2), out=log_s_bB[kept])
    value_B, gradient_bB = rule(t_bB, *_masses(log_s_bB, absent_bB), absent_bB)
    if wanted:
        gradient_bB.mul_(scale)
        if tail:
            work_BK.mul_((gradient_bB[kept] / sum_B).unsqueeze(-1))
        kept_Bk = gradient_bB[:kept].t()
        work_BK.scatter_(1, ids_Bk, torch.where(named_Bk, kept_Bk, work_BK.gather(1, ids_Bk)) if padded else kept_Bk)
    return value_B


def _masses(log_bB: Tensor, absent_bB: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The logarithms of normalised masses, and the masses, from unnormalised logarithms, which are overwritten.

    Powers of two, because torch's exp2 takes a third of the time of its exp on a CPU.
    """
    if absent_bB is not None:
        log_bB.masked_fill_(absent_bB, -math.inf)
    s_bB = (log_bB.sub_(log_bB.amax(0)) * math.log2(math.e)).exp2_()
    sum_B = s_bB.sum(0)
    log_bB.sub_(sum_B.log())
    return log_bB if absent_bB is None else log_bB.masked_fill_(absent_bB, 0), s_bB.div_(sum_B)
