"""What many tests need: a small plan, one torch thread, no noise on the console."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, settings

import limbeck.protos.tls  # noqa: F401 - before gRPC is loaded, as the command does
from helpers.plans import PLAN
from limbeck.inputs.sessions import SILENT
from limbeck.plans.schema import Plan

# A test that loads onnxruntime itself tells nobody either, and no proxy of another test hears of it.
os.environ[SILENT] = "1"
torch.set_num_threads(1)
logging.getLogger("limbeck").setLevel(logging.ERROR)
# How long an example takes says how busy the machine is.
TIMELESS = [HealthCheck.too_slow]
settings.register_profile("limbeck", deadline=None, max_examples=50, derandomize=True, suppress_health_check=TIMELESS)
settings.load_profile("limbeck")


# Of whoever runs the tests; commands that run in this process set one of their own.
UMASK = os.umask(0o077)
os.umask(UMASK)


@pytest.fixture(autouse=True)
def own_umask() -> Iterator[None]:
    """What a command does to the modes of new files ends with its test, or with the fixture that ran it."""
    os.umask(UMASK)
    yield
    os.umask(UMASK)


@pytest.fixture
def plan() -> Plan:
    """A valid plan of 20 samples and 10 classes."""
    return PLAN


@pytest.fixture
def make_plan() -> Callable[..., Plan]:
    """The same with some fields changed."""
    return lambda **changes: replace(PLAN, **changes)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules that take long come first, so that two workers, each of which takes a module at a time, end together."""
    items.sort(key=lambda item: item.get_closest_marker("early") is None)
