"""Two operators, one student? `python -m limbeck.experiments.theory.equivalence`.

Softmax regression softmax(phi(x)^T W) with a ridge penalty is trained to convergence, in float64, on a real teacher's answers softened
by two different operators.

bent      Power, and a softening operator of our own that keeps all five axioms (on T >= 1) and is not Power, bent so that the moments
          seen by a student of three features are equal. The same pair is then shown to a student of all features, where they are not.
tilted    Power, and other targets made from it by tilting at random; the tilt is then undone in the moments that a student of all features
          sees, and only there (an I-projection).
calibrated  Power, and Mixing at the temperature of the same mean entropy: different moments. The distance of the students against the
          bound |E[phi (F - G)^T]| / mu, for several mu.

Shape legend: N samples, K classes, D features, J bumps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from torch import Tensor
from torch.nn import functional

from limbeck.base import check
from limbeck.base.errors import SettingError
from limbeck.experiments.theory import common, results
from limbeck.experiments.theory.results import EquivalenceOfData, Pair
from limbeck.operators import Mixing, Power, calibrate, compare, compare_targets, reparametrise
from limbeck.operators.equivalence import Comparison, moments
from limbeck.server import distil
from limbeck.server.student import prepare
from limbeck.simulations.report.drawing import DENSE, POOL, STUDENT

COMMAND = "python -m limbeck.experiments.theory.equivalence"
DATA = {"digits": 30, "fashion-mnist-part": 12}
TEMPERATURE = 2.0
RIDGE = 1e-3
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
SEED = 1
BUMPS = 80
STEEPEST = 0.2
TILT = 1.0

Curve = tuple[list[float], list[float]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bend:
    """g(l) = sum_j weight_j exp(-(l - centre_j)^2 / (2 width^2)) of l = log p."""

    centre_J: Tensor
    weight_J: Tensor
    width: float

    def bumps(self, l_NK: Tensor) -> Tensor:
        """(N, K, J)."""
        return (-(((l_NK.unsqueeze(-1) - self.centre_J) / self.width) ** 2) / 2).exp()

    def __call__(self, l_NK: Tensor) -> Tensor:
        return self.bumps(l_NK) @ self.weight_J

    def steepest(self) -> float:
        """The largest |g'|, over a grid 40 times finer than a bump is wide."""
        low, high = float(self.centre_J.min()) - 6 * self.width, float(self.centre_J.max()) + 6 * self.width
        l_G = torch.arange(low, high, self.width / 40, dtype=torch.float64)
        slope_GJ = -self.bumps(l_G) * (l_G.unsqueeze(-1) - self.centre_J) / self.width**2
        return float((slope_GJ @ self.weight_J).abs().max())


@dataclass(frozen=True, slots=True, eq=False)
class BentPower:
    """f_T(p_i) / sum_j f_T(p_j) with log f_T(p) = s log p + 4 s (1 - s) g(log p), s = 1 / T, and g smooth, bounded, |g'| < 1/4 [D].

    Guarantees, T >= 1: axioms 1 to 4, and 5 for T to infinity, on the interior. The slope of log f_T against log p, s + 4 s (1 - s) g',
    is 0 at s = 0 and rises with s, because 1 + 4 (1 - 2 s) g' > 0: so f_T increases strictly, and f_T' / f_T does not for T' > T.
    """

    temperature: float
    bend: Bend

    def __post_init__(self) -> None:
        check.at_least(1.0, temperature=self.temperature)
        if self.bend.steepest() >= 0.25:
            raise SettingError(f"Expected a bend of slope < 0.25, got {self.bend.steepest():g}.")

    def __call__(self, p_NK: Tensor) -> Tensor:
        return self.from_log(p_NK.log()).exp()

    def from_log(self, log_p_NK: Tensor) -> Tensor:
        s = 1 / self.temperature
        return (s * log_p_NK + 4 * s * (1 - s) * self.bend(log_p_NK)).log_softmax(-1)


def bend_to_equal_moments(first: Power, log_p_NK: Tensor, features_ND: Tensor) -> Bend:
    """A bend that is not zero and leaves the moments of `first` as they are.

    Out of the bends that change no moment to first order the one that moves the targets most; then Newton steps of least norm onto the
    bends that change none at all. Raises SettingError where the result is too steep to be a softening operator.
    """
    f_NK = first(log_p_NK.exp())
    # Bumps stand where there is probability mass to move.
    order = log_p_NK.flatten().sort()
    mass = f_NK.flatten()[order.indices].cumsum(0) / f_NK.sum()
    at = torch.searchsorted(mass, torch.linspace(0.002, 0.9, BUMPS, dtype=torch.float64)).clamp(max=len(mass) - 1)
    centre_J = torch.linspace(float(order.values[at[0]]), 0.0, BUMPS, dtype=torch.float64)
    width = 1.2 * float(centre_J[1] - centre_J[0])
    s = 1 / first.temperature
    strength = 4 * s * (1 - s)

    def targets(weight_J: Tensor) -> Tensor:
        return BentPower(first.temperature, Bend(centre_J=centre_J, weight_J=weight_J, width=width)).from_log(log_p_NK).exp()

    def slopes(g_NK: Tensor) -> Tensor:
        """(N, K, J): how the targets move with each weight."""
        bumps_NKJ = strength * Bend(centre_J=centre_J, weight_J=centre_J, width=width).bumps(log_p_NK)
        return g_NK.unsqueeze(-1) * (bumps_NKJ - torch.einsum("nk,nkj->nj", g_NK, bumps_NKJ).unsqueeze(1))

    def constraints(slopes_NKJ: Tensor) -> Tensor:
        return torch.einsum("nd,nkj->dkj", features_ND, slopes_NKJ).flatten(0, 1) / len(features_ND)

    free = slopes(f_NK)
    _, values, right = torch.linalg.svd(constraints(free), full_matrices=True)
    rank = int((values > 1e-9 * values[0]).sum())
    null_JM = right[rank:].T
    moved = torch.linalg.svd(free.flatten(0, 1) @ null_JM, full_matrices=False).Vh[0]
    weight_J = null_JM @ moved
    weight_J = weight_J * STEEPEST / Bend(centre_J=centre_J, weight_J=weight_J, width=width).steepest()
    wanted = moments(features_ND, f_NK)
    for _ in range(50):
        g_NK = targets(weight_J)
        short = (moments(features_ND, g_NK) - wanted).flatten()
        if float(short.norm()) < 1e-15:
            break
        weight_J = weight_J - torch.linalg.lstsq(constraints(slopes(g_NK)), short, rcond=1e-10, driver="gelsd").solution
    return Bend(centre_J=centre_J, weight_J=weight_J, width=width)


def tilt_to_equal_moments(f_NK: Tensor, features_ND: Tensor, *, size: float, seed: int) -> Tensor:
    """Targets G_n proportional to F_n exp(size r_n + lambda^T phi_n), with r random and lambda such that the moments are those of F.

    Of all targets with these moments the one closest in KL(G || F exp(size r)): strictly positive, rows sum to 1. lambda is the minimum of
    a convex function, the loss of a softmax regression with an offset.
    """
    tilt_NK = size * torch.randn(f_NK.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    offset_NK = f_NK.log() + tilt_NK
    return (offset_NK + features_ND @ fit(features_ND, f_NK, ridge=0.0, offset_NK=offset_NK)).softmax(-1)


def fit(
    features_ND: Tensor,
    targets_NK: Tensor,
    *,
    ridge: float,
    start_DK: Tensor | None = None,
    offset_NK: Tensor | None = None,
) -> Tensor:
    """(D, K) weights that minimise mean KL(target || softmax(offset + phi^T W)) + ridge/2 |W|^2: Newton with halved steps, to rounding."""
    n, d = features_ND.shape
    classes = targets_NK.shape[1]
    weights_DK = torch.zeros(d, classes, dtype=torch.float64) if start_DK is None else start_DK
    wanted_DK = moments(features_ND, targets_NK)

    def logits(weights: Tensor) -> Tensor:
        return features_ND @ weights + (0 if offset_NK is None else offset_NK)

    def loss(weights: Tensor) -> float:
        z_NK = logits(weights)
        fitted = z_NK.logsumexp(-1).mean() - (targets_NK * z_NK).sum(-1).mean()
        return float(fitted + ridge / 2 * weights.square().sum())

    best = torch.inf
    for _ in range(100):
        q_NK = logits(weights_DK).softmax(-1)
        gradient_DK = moments(features_ND, q_NK) - wanted_DK + ridge * weights_DK
        size = float(gradient_DK.norm())
        if size < 1e-15 or (size < 1e-12 and size >= best):
            break
        best = min(best, size)
        hessian = torch.zeros(d, classes, d, classes, dtype=torch.float64)
        for i in range(classes):
            for j in range(i, classes):
                curvature_N = q_NK[:, i] * (float(i == j) - q_NK[:, j])
                block_DD = features_ND.T @ (curvature_N.unsqueeze(-1) * features_ND) / n
                hessian[:, i, :, j] = hessian[:, j, :, i] = block_DD
        flat = hessian.reshape(d * classes, d * classes)
        # Adding the same to all classes changes no prediction; without a penalty something must keep the system regular.
        flat.diagonal().add_(max(ridge, 1e-10))
        step_DK = torch.linalg.solve(flat, gradient_DK.flatten()).view(d, classes)
        now, length = loss(weights_DK), 1.0
        while size > 1e-9 and length > 1e-6 and loss(weights_DK - length * step_DK) > now:
            length /= 2
        weights_DK = weights_DK - length * step_DK
    return weights_DK


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Setting:
    """A teacher's log-probabilities on public inputs; what students see of public and test inputs: few or all features, intercept first."""

    log_p_NK: Tensor
    few_ND: Tensor
    all_ND: Tensor
    test_few_ND: Tensor
    test_all_ND: Tensor
    teacher_accuracy: float


def setting(name: str) -> Setting:
    """A small net is trained on the private part and answers the public part."""
    given = common.parts(name)
    model, masks = common.fresh(given.private_x, given.classes, SEED)
    labels = common.one_hot(given.private_y, given.classes)
    common.train(model, masks, given.private_x, labels, common.settings(epochs=DATA[name], batch=64), seed=SEED)
    with torch.no_grad():
        log_p_NK = model(prepare(given.public_x)).double().log_softmax(-1)
    correct = distil.predict(model, given.test_x).argmax(1) == given.test_y
    all_ND, test_all_ND = _pixels(given.public_x), _pixels(given.test_x)
    mean_D = all_ND.mean(0)
    axes_D2 = torch.linalg.svd(all_ND - mean_D, full_matrices=False).Vh[:2].T
    scale_2 = ((all_ND - mean_D) @ axes_D2).std(0)
    few_ND, test_few_ND = (((x - mean_D) @ axes_D2) / scale_2 for x in (all_ND, test_all_ND))
    return Setting(
        log_p_NK=log_p_NK,
        few_ND=_with_one(few_ND),
        all_ND=_with_one(all_ND),
        test_few_ND=_with_one(test_few_ND),
        test_all_ND=_with_one(test_all_ND),
        teacher_accuracy=float(correct.double().mean()),
    )


def _pixels(x_N: Tensor) -> Tensor:
    """(N, 64) or (N, 49): images of 8 x 8 as they are, of 28 x 28 averaged over 4 x 4."""
    images = prepare(x_N).double().unsqueeze(1)
    return (functional.avg_pool2d(images, 4) if images.shape[-1] > 8 else images).flatten(1)


def _with_one(x_ND: Tensor) -> Tensor:
    return torch.cat([torch.ones(len(x_ND), 1, dtype=x_ND.dtype), x_ND], 1)


def students(
    features_ND: Tensor, test_ND: Tensor, f_NK: Tensor, g_NK: Tensor, compared: Comparison, *, ridge: float
) -> Pair:
    """Train two students to convergence, the second from a random start, and measure how far apart they end."""
    first_DK = fit(features_ND, f_NK, ridge=ridge)
    start_DK = torch.randn(first_DK.shape, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64)
    second_DK = fit(features_ND, g_NK, ridge=ridge, start_DK=start_DK)
    first_test, second_test = (test_ND @ first_DK).softmax(-1), (test_ND @ second_DK).softmax(-1)
    return {
        "ridge": ridge,
        "features": features_ND.shape[1],
        "shared": compared.shared.value,
        "targets_max_l1": common.significant(compared.targets),
        "targets_mean_l1": common.significant(compared.mean_l1),
        "moments": common.significant(compared.moments or 0.0),
        "weights_norm": common.significant(float(first_DK.norm())),
        "weights_distance": common.significant(float((first_DK - second_DK).norm())),
        "bound_from_moments": common.significant(compared.shift_bound(ridge)),
        "bound_from_l1": common.significant(float(features_ND.norm(dim=-1).max()) * compared.mean_l1 / ridge),
        "test_probabilities_max_difference": common.significant(float((first_test - second_test).abs().max())),
        "test_decisions_differ": common.significant(float((first_test.argmax(1) != second_test.argmax(1)).double().mean())),
    }


def experiment(name: str) -> tuple[EquivalenceOfData, Curve]:
    """All pairs on one data set, and the bend for the plot."""
    given = setting(name)
    first = Power(TEMPERATURE)
    f_NK = first.from_log(given.log_p_NK).exp()
    few, everything = (given.few_ND, given.test_few_ND), (given.all_ND, given.test_all_ND)

    bend = bend_to_equal_moments(first, given.log_p_NK, given.few_ND)
    bent = BentPower(TEMPERATURE, bend)
    bent_NK = bent.from_log(given.log_p_NK).exp()
    tilted_NK = tilt_to_equal_moments(f_NK, given.all_ND, size=TILT, seed=SEED)
    by_entropy = calibrate(first, Mixing, given.log_p_NK)
    by_moments = calibrate(first, Mixing, given.log_p_NK, match="moments", features_ND=given.all_ND)
    mixed = by_entropy.softening
    mixed_NK = mixed.from_log(given.log_p_NK).exp()

    def pair(g_NK: Tensor, seen: tuple[Tensor, Tensor], ridge: float = RIDGE) -> Pair:
        # Rows sum to 1 within about 1e-16, so that what is closer than 1e-12 counts as equal.
        compared = compare_targets(f_NK, g_NK, features_ND=seen[0], tolerance=1e-12)
        return students(*seen, f_NK, g_NK, compared, ridge=ridge)

    after = compare(first, by_moments.softening, given.log_p_NK, features_ND=given.all_ND)
    per_sample = reparametrise(first, Mixing, given.log_p_NK)
    two = given.log_p_NK.topk(2).values.log_softmax(-1)
    per_sample_of_two = reparametrise(first, Mixing, two)
    return {
        "data": name,
        "samples": len(f_NK),
        "classes": f_NK.shape[1],
        "teacher_accuracy": common.significant(given.teacher_accuracy),
        "first": f"power, T = {TEMPERATURE:g}",
        "bent": {
            "steepest": common.significant(bend.steepest()),
            "seen": pair(bent_NK, few),
            "not_seen": pair(bent_NK, everything),
        },
        "tilted": {"size": TILT, "seen": pair(tilted_NK, everything)},
        "calibrated": {
            "mixing_temperature": common.significant(by_entropy.temperature),
            "entropy_residual": common.significant(by_entropy.residual),
            "mixing_temperature_by_moments": common.significant(by_moments.temperature),
            "moments_residual": common.significant(by_moments.residual),
            "shared_after_moments": after.shared.value,
            "students": [pair(mixed_NK, everything, ridge) for ridge in RIDGES],
        },
        "reparametrised": {
            "temperature_10_to_90_percent": [common.significant(v) for v in _decile_range(per_sample.temperature_N)],
            "residual_median": common.significant(float(per_sample.residual_N.median())),
            "two_classes_temperature_10_to_90_percent": [
                common.significant(v) for v in _decile_range(per_sample_of_two.temperature_N)
            ],
            "two_classes_residual_max": common.significant(float(per_sample_of_two.residual_N.max())),
        },
    }, _curve(bend)


def _decile_range(x_N: Tensor) -> list[float]:
    return [float(v) for v in x_N.quantile(torch.tensor([0.1, 0.9], dtype=x_N.dtype))]


def _curve(bend: Bend) -> Curve:
    """What is added to log f_T, against log p."""
    l_G = torch.linspace(-12, 0, 481, dtype=torch.float64)
    s = 1 / TEMPERATURE
    return l_G.tolist(), (4 * s * (1 - s) * bend(l_G)).tolist()


def draw(data: list[EquivalenceOfData], curves: dict[str, Curve]) -> Callable[[list[Axes]], None]:
    """Left: the bend. Right: distances of the students against the bounds."""

    def panels(axes: list[Axes]) -> None:
        for row, colour in zip(data, (STUDENT, DENSE), strict=True):
            axes[0].plot(*curves[row["data"]], color=colour, label=row["data"])
        axes[0].set_xlabel("log p")
        axes[0].set_ylabel("log f, bent minus power")
        axes[0].set_title("An operator that is not power", size=10)
        axes[0].legend()
        for of_data, marker in zip(data, ("o", "s"), strict=True):
            pairs = of_data["calibrated"]["students"]
            mu = [pair["ridge"] for pair in pairs]
            for values, label, colour, style in (
                ([pair["bound_from_l1"] for pair in pairs], "bound from mean L1", "#8a8f98", ":"),
                ([pair["bound_from_moments"] for pair in pairs], "bound from moments", POOL, "--"),
                ([pair["weights_distance"] for pair in pairs], "power, mixing: apart by", STUDENT, "-"),
            ):
                axes[1].plot(
                    mu,
                    values,
                    style,
                    marker=marker,
                    color=colour,
                    label=label if of_data is data[0] else None,
                )
            same = [of_data["bent"]["seen"], of_data["tilted"]["seen"]]
            axes[1].scatter(
                [pair["ridge"] for pair in same],
                [pair["weights_distance"] for pair in same],
                marker=marker,
                color=DENSE,
                label="equal moments: apart by" if of_data is data[0] else None,
                zorder=3,
            )
        axes[1].set_xscale("log")
        axes[1].set_yscale("log")
        axes[1].set_xlabel("ridge, mu")
        axes[1].set_ylabel("distance of the students' weights")
        axes[1].set_title("o digits, \u25a1 Fashion-MNIST part", size=10)
        axes[1].legend(fontsize=8)

    return panels


def main() -> None:
    """The command."""
    options = common.options(__doc__)
    data: list[EquivalenceOfData] = []
    curves: dict[str, Curve] = {}
    with common.bars() as progress:
        for name in progress.track(DATA, description="equivalence"):
            of_data, curves[name] = experiment(name)
            data.append(of_data)
    result: results.Equivalence = {"command": COMMAND, "machine": common.machine(), "seed": SEED, "data": data}
    common.write_json(options.out / "equivalence.json", result)
    common.plot(options.out / "equivalence.png", draw(data, curves), columns=2, width=9, height=3.6)


if __name__ == "__main__":
    main()
