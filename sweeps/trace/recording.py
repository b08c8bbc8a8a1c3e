"""A run's hashes: of its weights after every step, and of every operation in some steps."""

from __future__ import annotations

import json
import multiprocessing
import sys
import traceback
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from symbreak.callbacks import environment
from symbreak.callbacks.monitor import Monitor
from symbreak.callbacks.tracing.recorder import Recorded, Recorder, fingerprint_of_all
from symbreak.sweeps.errors import UsageError
from symbreak.sweeps.run.arguments import prepare
from symbreak.sweeps.run.command import run

FORMAT = "symbreak recording 1"


@dataclass
class Recording:
    """Operations and hashes of a run, without tensor values.

    Args:
        environment: Versions, device and threads.
        weights: Hash of the weights at the start and after each update.
        steps: Operations by number of updates before the step.
    """

    environment: dict[str, Any]
    weights: list[str] = field(default_factory=list)
    steps: dict[int, list[Recorded]] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write JSON with one table of texts and hashes, to which the operations refer by number."""
        table: dict[str, int] = {}

        def number(text: str) -> int:
            return table.setdefault(text, len(table))

        def row(each: Recorded) -> list[Any]:
            texts = [number(text) for text in (each.operation, each.place, each.outputs)]
            return [*texts, [*map(number, each.read)], [*map(number, each.made)], int(each.random)]

        steps = {step: [row(each) for each in operations] for step, operations in self.steps.items()}
        content = {
            "format": FORMAT,
            "environment": self.environment,
            "weights": self.weights,
            "table": list(table),
            "steps": steps,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Recording:
        """Read what `write` wrote.

        Raises:
            UsageError: If the file is not a recording.
        """
        try:
            content = json.loads(path.read_bytes())
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']!r}")
            table = content["table"]
            steps = {int(step): [_row(table, row) for row in rows] for step, rows in content["steps"].items()}
            return cls(content["environment"], content["weights"], steps)
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise UsageError(f"{path}: not a recording of symbreak trace --save ({error})") from error


def _row(table: list[str], row: Sequence[Any]) -> Recorded:
    operation, place, outputs = (table[index] for index in row[:3])
    read, made = (tuple(table[index] for index in indices) for indices in row[3:5])
    return Recorded(operation, place, outputs, read, made, bool(row[5]))


class RecordingCallback(Callback):
    """Record a fit without its measuring callbacks, and write the :class:`Recording` at its end.

    Args:
        file: JSON file to write.
        first: First step whose operations are recorded, as number of updates before it.
        last: The step after the last one.
    """

    def __init__(self, file: str, first: int = 0, last: int = 0) -> None:
        self.file, self.first, self.last = Path(file), first, last
        self._recorder: Recorder | None = None
        self._step = -1

    def setup(self, trainer: Any, pl_module: LightningModule, stage: str) -> None:
        """Remove the measuring callbacks."""
        trainer.callbacks = [each for each in trainer.callbacks if not isinstance(each, Monitor)]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hash the weights that training starts with."""
        facts = environment() | {"threads": torch.get_num_threads()}
        self.recording = Recording(facts, [fingerprint_of_all(pl_module.parameters())])

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Begin to record the operations of a step."""
        self._step = trainer.global_step
        if self.first <= self._step < self.last:
            self._recorder = Recorder(pl_module, trainer.optimizers)
            self._recorder.__enter__()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the operations, and hash the weights after an update."""
        self._leave()
        if trainer.global_step != self._step:
            self.recording.weights.append(fingerprint_of_all(pl_module.parameters()))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file."""
        if trainer.is_global_zero:
            self.recording.write(self.file)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop recording."""
        self._leave()

    def _leave(self) -> None:
        if self._recorder is not None:
            self._recorder.__exit__(None, None, None)
            self.recording.steps.setdefault(self._step, []).extend(self._recorder.operations)
            self._recorder = None


def record(fit: Sequence[str], folder: Path, first: int, last: int) -> Recording:
    """Fit in a process of its own, with the options of ``symbreak fit``, and return its recording.

    The processes are forked from a server that has imported their modules and computed nothing.

    Args:
        fit: Options.
        folder: The run's folder, which must not exist.
        first: First step whose operations are recorded.
        last: The step after the last one.

    Raises:
        UsageError: If the fit fails, with its last line.
    """
    kind = f"{RecordingCallback.__module__}.{RecordingCallback.__name__}"
    callback = [f"--trainer.callbacks+={kind}", f"--trainer.callbacks.file={folder / 'recording.json'}"]
    callback += [f"--trainer.callbacks.first={first}", f"--trainer.callbacks.last={last}"]
    options = [*fit, f"--run.dir={folder}", "--run.test=false", "--wandb.mode=disabled", *callback]
    output = folder.with_name(f"{folder.name}.log")
    output.parent.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_fit, args=(["fit", *options], output))
    process.start()
    process.join()
    if process.exitcode:
        raise UsageError(f"a run failed: {output.read_text(encoding='utf-8').strip().splitlines()[-1]}")
    return Recording.read(folder / "recording.json")


def _fit(args: list[str], output: Path) -> None:
    """Run the command with its output in a file."""
    with output.open("w", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
        try:
            run(prepare(args))
        except UsageError as error:
            print(error)
            sys.exit(2)
        except BaseException:
            traceback.print_exc()
            sys.exit(1)
