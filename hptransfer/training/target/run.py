"""A target's run in its directory, from its newest sound checkpoint to its deciding loss.

A checkpoint holds everything that a run depends on, so that on a CPU one process ends with the same
bits however often it was cut off. All processes of a run take part in computing; only the first one
writes files.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hptransfer.config import RuntimeConfig, TrainerConfig, TrialConfig
from hptransfer.config.choices import Status
from hptransfer.config.identity import trial_key
from hptransfer.data import Dataset
from hptransfer.errors import Interrupted, MachineError
from hptransfer.models.parametrization.rules import parameter_count
from hptransfer.models.weights import save_weights
from hptransfer.results.folder import RunFolder, write_json
from hptransfer.results.ledger_rows import finite_or_none
from hptransfer.results.provenance import provenance, utc_now
from hptransfer.results.trial_result import Quality, TrialResult, closing_loss, named_metrics
from hptransfer.system.signals import requested_signal
from hptransfer.training.checkpoint_pace import CheckpointPace
from hptransfer.training.device import device_name, products_library, software_versions
from hptransfer.training.flops import train_step_flops, trial_flops
from hptransfer.training.sampling.generate import sample_grid
from hptransfer.training.sampling.quality import RealSamples, SampleJudge, quality_chunks
from hptransfer.training.sampling.reference import load_real_samples
from hptransfer.training.sampling.samplers import SamplerConfig, require_fitting_sampler
from hptransfer.training.target.checkpoints import RunCheckpoints, resume
from hptransfer.training.target.engine import Engine, StepReport
from hptransfer.training.target.parallel import ProcessGroup
from hptransfer.training.target.record import (
    LogEntry,
    ProcessStart,
    RunLog,
    Speed,
    matmul_peak,
)

SPEED_FIELDS = ("samples_per_second", "tflops", "utilisation")  # of `Speed.of`, in `run.json`
# The definition of `utilisation`, which `run.json` holds beside the number.
UTILISATION = (
    "model FLOP/s over the FLOP/s of a large matrix product at the run's precision, measured on "
    "the same devices when the last of `starts` began"
)

# The signal that a process reports as the cause of its end, where only another process of the run
# received one.
TERMINATE = int(signal.SIGTERM)


@dataclass(frozen=True)
class RunListeners:
    """The functions that a run calls as it trains, in its first process only."""

    tell: Callable[[str], None]  # is given a sentence for people
    log: Callable[[LogEntry], None]  # is given each line of the log
    # Is given the steps taken and images (rows, columns, C, H, W).
    samples: Callable[[int, np.ndarray], None]


class TrainingRun:
    """A run from its newest checkpoint to its end; `train`, then `finish`, are called once each."""

    def __init__(
        self,
        config: TrialConfig,
        runtime: RuntimeConfig,
        trainer: TrainerConfig,
        dataset: Dataset,
        group: ProcessGroup,
        folder: RunFolder,
        listeners: RunListeners,
    ) -> None:
        self.config, self.runtime, self.trainer = config, runtime, trainer
        self.dataset, self.group, self.folder, self.listeners = dataset, group, folder, listeners
        self.began = time.perf_counter()
        self.device = device_name(group.device)
        peak = torch.tensor(matmul_peak(group.device, config.precision), device=group.device)
        self.speed = Speed(
            config.budget.batch_size, train_step_flops(config), float(group.total(peak))
        )
        # Samplers and data that do not fit are refused before training.
        self.sampler = SamplerConfig(steps=trainer.sample_steps, guidance=trainer.guidance)
        if self._draws_images:
            require_fitting_sampler(config.objective, self.sampler)
        if config.quality.samples:
            self._real_samples(listeners.tell if group.is_first else None)
        self.engine = Engine(config, runtime, trainer, dataset, group)
        self.checkpoints = RunCheckpoints(folder.checkpoints, trainer.keep)
        self.origin = {  # what must be equal for a run to resume with the same bits
            **software_versions(),
            "device": self.device,
            "processor": torch.backends.cpu.get_cpu_capability(),
            "products": products_library(config, group.device),
            "threads": runtime.threads,
            "compile": runtime.compile,
            "parallel": trainer.parallel.value,
            "processes": group.size,
            "accumulate": trainer.accumulate,
            "activation_checkpointing": trainer.activation_checkpointing,
        }
        self.progress, self.starts = resume(
            self.engine, self.checkpoints, self.origin, listeners.tell
        )
        here = ProcessStart(self.progress.step, utc_now(), self.device, group.size)
        self.starts.append(here)
        self.began -= self.progress.seconds
        self.pace = CheckpointPace(trainer.checkpoint_s)
        self.since_log = self.since_start = (0, 0.0)  # steps and their seconds
        if group.is_first:
            self.log = RunLog(folder.log_file, self.progress.step)
            self._describe("running")

    @property
    def _draws_images(self) -> bool:
        return self.config.data.layout.channels in (1, 3)

    def train(self) -> None:
        """Train to the end of the run.

        Raises:
            Interrupted: a signal asked for an end; a checkpoint was written.
        """
        try:
            while self.status is None:
                self._step()
        finally:
            self.engine.close()

    @property
    def status(self) -> Status | None:
        """How the run ended; None if it has not."""
        return self.progress.status(self.config.budget)

    def _step(self) -> None:
        """Take a step and do what is due after it; a checkpoint comes last, to hold all of that."""
        progress, budget, trainer = self.progress, self.config.budget, self.trainer
        report = self._timed(progress.step)
        progress.took(report.loss, clipped=report.clipped, sound=report.is_sound)
        progress.report(budget)
        step, held_out = progress.step, None
        if self.status is None:
            last = step == budget.steps
            if last or _due(step, trainer.eval_every):
                held_out = self.engine.held_out_loss()
                progress.measured(held_out, budget)
            if self.status is not Status.diverged and (last or _due(step, trainer.sample_every)):
                self._sample()
        logs = self.status is not None or held_out is not None or _due(step, trainer.log_every)
        if logs:
            self._log(report, held_out)
        self._leave_checkpoint(at_log=logs)

    def _timed(self, step: int) -> StepReport:
        began = time.perf_counter()
        report = self.engine.train_step(step)
        seconds = time.perf_counter() - began  # the report's numbers have waited for the device
        self.since_log = (self.since_log[0] + 1, self.since_log[1] + seconds)
        if self.progress.step > self.starts[-1].step:  # the first step loads and compiles
            self.since_start = (self.since_start[0] + 1, self.since_start[1] + seconds)
        return report

    def _sample(self) -> None:
        """Draw a grid of images with the deciding weights, unless the data are latents."""
        if not self._draws_images:
            return
        split, columns = self.dataset.validation, self.trainer.sample_columns
        with self.engine.sampling_model() as model:
            drawn = sample_grid(
                self.config, model, split, self.sampler, self.group.device, columns=columns
            )
        if self.group.is_first:
            self.listeners.samples(self.progress.step, drawn)

    def _log(self, report: StepReport, held_out: float | None) -> None:
        step = self.progress.step
        entry = LogEntry(
            step=step,
            loss=finite_or_none(self.progress.logged()),
            lr_multiplier=self.engine.lr_multiplier(step - 1),
            grad_norm=finite_or_none(report.grad_norm),
            held_out_loss=None if held_out is None else finite_or_none(held_out),
            **self.speed.of(*self.since_log),
        )
        self.since_log = (0, 0.0)
        if self.group.is_first:
            self.log.append(entry)
            self.listeners.log(entry)

    def _leave_checkpoint(self, *, at_log: bool) -> None:
        """Write a checkpoint if one is due, or the run ends, or a signal asked for an end.

        In the last case raise `Interrupted`, in all processes.
        """
        done, number = self.status, requested_signal()
        if done is Status.diverged:
            return
        ends = self.group.any(number is not None)
        is_due = self.group.is_first and self.pace.is_due
        if ends or done is not None or (at_log and self.group.any(is_due)):
            with self.pace.writing():
                self._save()
        if ends and done is None:
            if self.group.is_first:
                self._describe("interrupted")
            raise Interrupted(TERMINATE if number is None else number)

    def _save(self) -> None:
        """Write a checkpoint; if that fails, the run continues without."""
        state = self.engine.state()
        facts = {
            "origin": self.origin,
            "progress": self.progress.facts(self.seconds),
            "starts": [start._asdict() for start in self.starts],
        }
        if self.group.is_first:
            try:
                self.checkpoints.save(self.progress.step, state, facts)
                self._describe("running")
            except MachineError as error:
                self.listeners.tell(
                    f"The checkpoint of step {self.progress.step} could not be written: {error}"
                )
        for _ in state:  # all processes must gather all tensors, even if writing failed
            pass

    @property
    def seconds(self) -> float:
        """The wall time spent on the run in seconds, by earlier processes too."""
        return time.perf_counter() - self.began

    def finish(self) -> TrialResult:
        """Write the deciding weights of a run that completed, and return the run's result."""
        result = self._result()
        if result.status is Status.completed:
            weights = self.engine.deciding_weights()
            if weights is not None:
                save_weights(self.folder.weights_file, self.config, weights)
        if self.group.is_first:
            self._describe(result.status.value)
        return result

    def _result(self) -> TrialResult:
        progress, budget, status = self.progress, self.config.budget, self.status
        assert status is not None, "the run has not ended"
        completed = status is Status.completed
        return TrialResult(
            config=self.config,
            status=status,
            loss=progress.deciding_loss(budget),
            loss_at_init=progress.loss_at_init,
            train_loss=closing_loss(progress.curve, budget.steps) if completed else None,
            diverged_at_step=progress.diverged_at,
            stopped_at_step=progress.stopped_at,
            clipped_share=progress.clipped / budget.steps,
            flops=trial_flops(self.config),
            seconds=self.seconds,
            device=self.device,
            curve=tuple(progress.curve),
            held_out=tuple(progress.held_out) if self.trainer.eval_every else (),
            metrics=self._metrics() if completed else {},
            quality=self._quality() if completed else None,
        )

    def _metrics(self) -> dict[str, float]:
        """Return the numbers beside the deciding loss and the quality of its samples.

        The deciding weights are evaluated once more, so that no checkpoint has to hold it.
        """
        judged = self.engine.judged
        return named_metrics(
            self.engine.held_out_losses().by_noise,
            {f: self.engine.held_out_losses(weights=own).loss for f, own in judged.items()},
            {f: self._quality(own) for f, own in judged.items()},
        )

    def _quality(self, weights: Mapping[str, Tensor] | None = None) -> Quality | None:
        """Return the quality of samples, if the trial asks for it.

        They are those of the deciding weights, or of `weights` by parameter.
        """
        if not self.config.quality.samples:
            return None
        real = self._real_samples()
        judge = SampleJudge(self.config, real, self.group.device)
        with self.engine.sampling_model(weights) as model:
            for samples in quality_chunks(self.config, real.train, model, self.group.device):
                judge.add(samples)
        return judge.quality()

    def _real_samples(self, tell: Callable[[str], None] | None = None) -> RealSamples:
        return load_real_samples(self.config, self.runtime.data_folder, self.group.device, tell)

    def _describe(self, status: str) -> None:
        """Write `run.json`; after a kill without warning its status remains `running`."""
        config, progress = self.config, self.progress
        unknown: dict[str, float | None] = dict.fromkeys(SPEED_FIELDS)
        measured = self.speed.of(*self.since_start) if self.since_start[0] else unknown
        record = {
            "trial_key": trial_key(config),
            "status": status,
            "steps": config.budget.steps,
            "steps_done": progress.step,
            "loss": progress.deciding_loss(config.budget),
            "loss_at_init": finite_or_none(progress.loss_at_init),
            "diverged_at_step": progress.diverged_at,
            "stopped_at_step": progress.stopped_at,
            "parameters": parameter_count(config),
            "precision": config.precision.value,
            **self.origin,
            "flops_per_step": self.speed.step_flops,
            **measured,
            "matmul_peak_tflops": float(f"{self.speed.peak / 1e12:.4g}"),
            "utilisation_is": UTILISATION,
            "seconds": float(f"{self.seconds:.6g}"),
            "starts": [start._asdict() for start in self.starts],
            "provenance": provenance(),
        }
        write_json(self.folder.record_file, record)


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0
