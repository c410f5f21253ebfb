"""What the package offers is pinned: a name that appears, moves or goes is a decision, not an accident."""

import importlib
import pkgutil

import pytest

import limbeck.operators

PUBLIC = {
    "": (
        "Anchoring ArgMax Arithmetic Calibration Comparison EntropyTarget Family Geometric Hybrid LabelsOnly Mixing Nucleus Pooling Power "
        "PowerMean Raw Renormalised Reparametrised Sampled Separable SeparableSoftening Shared Sharpen SoftenThenTruncate Softening "
        "Sparsemax TailInterval TemperedSoftening TopK TruncateThenSoften Truncated Truncation Tsallis axioms calibrate compare "
        "compare_targets concatenate evidence family losses reparametrise tail_interval"
    ),
    ".anchoring": "Anchoring",
    ".axioms": (
        "Axiom Counterexample Factory Failure Finding Majorisation PoolingAxiom PoolingCounterexample PoolingFinding Report check "
        "check_pooling majorisation"
    ),
    ".entropy_target": "EntropyTarget",
    ".equivalence": (
        "Calibration Comparison Match Reparametrised Shared TemperedFamily calibrate compare compare_targets mean_entropy moments "
        "reparametrise"
    ),
    ".families": "Family family",
    ".heads": "Nucleus Raw Renormalised",
    ".losses": "FLOOR hinton jensen_shannon reverse ttm",
    ".pooling": "Arithmetic Geometric Pooling PowerMean",
    ".projections": "ArgMax Sparsemax nearest",
    ".sampling": "LabelsOnly MOST_DRAWS Sampled",
    ".sharpening": "LEAST Sharpen evidence",
    ".softening": "Hybrid Mixing Power Separable SeparableSoftening Softening TemperedSoftening Tsallis",
    ".tail": "TailInterval tail_interval",
    ".truncated": "Truncated concatenate rows_per_chunk",
    ".truncation": "SoftenThenTruncate TopK TruncateThenSoften Truncation",
}


def test_every_module_of_the_package_is_pinned() -> None:
    names = {f".{module.name}" for module in pkgutil.iter_modules(limbeck.operators.__path__)}
    assert names == PUBLIC.keys() - {""}


@pytest.mark.parametrize("module", PUBLIC)
def test_what_a_module_offers_is_pinned_and_exists(module: str) -> None:
    offering = importlib.import_module(f"limbeck.operators{module}")
    assert sorted(offering.__all__) == sorted(PUBLIC[module].split())
    assert [name for name in offering.__all__ if not hasattr(offering, name)] == []


@pytest.mark.parametrize("module", [module for module in PUBLIC if module not in {"", ".axioms"}])
def test_what_a_module_defines_without_an_underscore_it_offers(module: str) -> None:
    offering = importlib.import_module(f"limbeck.operators{module}")
    defined = {
        name
        for name, value in vars(offering).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == offering.__name__
    }
    assert defined <= set(offering.__all__)
