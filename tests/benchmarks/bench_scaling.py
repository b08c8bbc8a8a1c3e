"""How the time of a step grows with width, depth, batch and the number of layers watched."""

import pytest
from tests.benchmarks.loops import lightning

from symbreak.callbacks import FeatureDiversity, SymmetryBreaking
from symbreak.datamodules import DigitsDataModule
from symbreak.lightning_modules import ConstNet

STEPS, ROUNDS = 10, 5


def loop(depth=10, width=1, batch_size=128, watched=()):
    """A network on digits; ``watched`` are the names of the layers measured at every step."""
    kinds = (FeatureDiversity, SymmetryBreaking) if watched else ()
    callbacks = [kind(every_n_steps=1, include=watched) for kind in kinds]
    return lightning(ConstNet(depth, width, in_channels=1), DigitsDataModule(batch_size=batch_size), callbacks)


SERIES = {
    "widen_factor": {width: {"width": width} for width in (1, 2, 4, 8)},
    "depth": {depth: {"depth": depth} for depth in (7, 10, 16, 28)},
    "batch_size": {size: {"batch_size": size} for size in (16, 64, 256, 1024)},
    "layers watched": {
        count: {"depth": 28, "watched": [f"blocks.{index}.conv" for index in range(count)]} for count in (0, 1, 6, 24)
    },
}


@pytest.mark.parametrize("variable", SERIES)
def test_time_of_a_step(compare_loops, record, variable):
    loops = {f"{value}": loop(**arguments) for value, arguments in SERIES[variable].items()}
    seconds = compare_loops(loops, STEPS, ROUNDS)
    for value, each in seconds.items():
        record(f"ms per step, {variable} {value}", 1000 * each)
