"""Where and how packs and targets run, which changes no result beyond float tolerance."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from hptransfer.config.checks import (
    TAG,
    require_count,
    require_finite,
    require_positive,
    require_share,
)
from hptransfer.config.choices import Parallel, Precision
from hptransfer.errors import abbreviate, require
from hptransfer.system.text import rounded


@dataclass(frozen=True)
class RuntimeConfig:
    """The device of a pack, and how it runs there."""

    device: str = "cpu"  # cpu, cuda or cuda:N
    threads: int = 1  # CPU threads per pack
    pack_size: int | None = None  # trials trained together along the trial axis; null: measured
    compile: bool | None = None  # compile models or steps; null: on a GPU, and long trials on a CPU
    graph: bool | None = None  # capture the step in a CUDA graph; null: on a GPU only
    data_folder: str | None = None  # where file-based data sets lie
    held_out_curve: bool = False  # measure the deciding loss at every report, not only at the end

    def __post_init__(self) -> None:
        require(
            re.fullmatch(r"[a-z]+(:\d{1,4})?", self.device) is not None,
            f"`runtime.device` must be cpu, cuda or cuda:N, but got {self.device!r}.",
        )
        require_count("runtime.threads", self.threads, most=2**12)
        require_count("runtime.pack_size", self.pack_size)
        require(
            not self.graph or self.on_gpu,
            f"`runtime.graph` needs a CUDA device, but got runtime.device={self.device}. Set "
            "runtime.graph=null or runtime.device=cuda.",
        )

    @property
    def on_gpu(self) -> bool:
        """Whether packs run on a CUDA device."""
        return self.device.startswith("cuda")

    @property
    def compiled(self) -> bool:
        """Whether the blocks of the families that ship are compiled."""
        return self.on_gpu if self.compile is None else self.compile

    def compiles(self, *, custom: bool) -> bool:
        """Whether a model is compiled; one of the user's own only where that was asked for."""
        return bool(self.compile) if custom else self.compiled

    @property
    def captured(self) -> bool:
        """Whether steps are captured in a CUDA graph."""
        return self.on_gpu if self.graph is None else self.graph


@dataclass(frozen=True)
class CheckpointConfig:
    """Where packs in training leave their state, and how often."""

    folder: str  # a path, or a URL that fsspec knows
    every_s: float = 60.0  # least seconds between two checkpoints of a pack; 0: at every report


# Parts of a URL that hold a password or token.
_USER_INFO = r"\w://[^\s/@]*:[^\s/@]*@|https?://[^\s/@]+@"
_QUERY = r"[?&;](?:\w*(?:token|secret|password|signature|api_?key)|sig|key)="
PLACEMENTS = ("spread", "pack")
TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")


CLUSTERS = ("slurm", "local")
# What `executor.slurm.parameters` must not say, since a field says it or the jobs need it.
OWN_PARAMETERS = {
    **{name: f"executor.slurm.{name}" for name in ("partition", "account", "qos", "constraint")},
    **{"time": "executor.slurm.timeout_min", "cpus-per-task": "executor.cpus"},
    **{"mem": "executor.memory_gib", "gpus-per-node": "executor.gpus"},
    **dict.fromkeys(("array", "job-name", "output", "error", "open-mode", "signal"), ""),
}


@dataclass(frozen=True)
class SlurmConfig:
    """What only SLURM knows of the jobs of `executor=slurm`."""

    cluster: str = "slurm"  # or local: processes of this machine, to try it out without SLURM
    partition: str | None = None  # null: the site's own choice, here and below
    account: str | None = None  # that pays for the jobs
    qos: str | None = None  # quality of service
    constraint: str | None = None  # features of the nodes, such as a100
    timeout_min: int = 60  # minutes after which SLURM ends a job
    parameters: dict[str, str] = field(default_factory=dict)  # further lines #SBATCH --NAME=VALUE
    setup: list[str] = field(default_factory=list)  # lines of shell that run first in a job
    poll_s: float = 30.0  # seconds between two questions to SLURM, each of which is for all jobs

    def __post_init__(self) -> None:
        require(
            self.cluster in CLUSTERS,
            f"`executor.slurm.cluster` must be slurm or local, but got {self.cluster!r}.",
        )
        require_count("executor.slurm.timeout_min", self.timeout_min)
        require_finite("executor.slurm.poll_s", self.poll_s, least=0.1)
        for name in self.parameters:
            own = OWN_PARAMETERS.get(name.replace("_", "-"))
            require(
                own is None,
                f"`executor.slurm.parameters` must not name {name}, which "
                + (f"is {own}. Set that." if own else "hptransfer sets itself. Leave it out."),
            )
            require(
                re.fullmatch(r"[a-z][a-z0-9_-]*", name) is not None,
                "`executor.slurm.parameters` must be options of sbatch without their dashes, but "
                f"got {name!r}. Write, for example, {{exclude: node7}}.",
            )


@dataclass(frozen=True)
class ExecutorConfig:
    """Who runs the packs."""

    name: str = field(default="ray", metadata=TAG)  # local (one pack after another), ray or slurm
    workers: int | None = None  # packs at a time; null: as many as the resources allow
    cpus: float = 1.0  # CPUs a pack asks for
    gpus: float | None = None  # GPUs a pack asks for; null: 1 on cuda, else 0
    memory_gib: float | None = None  # GiB of memory a pack asks for; null: none
    resources: dict[str, float] = field(default_factory=dict)  # custom Ray resources of a pack
    accelerator_type: str | None = None  # the GPU a pack asks for, as Ray names it, e.g. H100
    nodes: int = 1  # nodes that a trial of your own trainer takes
    placement: str = "spread"  # of its nodes: spread (as many machines) or pack (all on one)
    address: str = "local"  # of Ray: local (this machine), auto or host:port
    wait_for_nodes_s: float = 0.0  # seconds to wait for nodes that fit, for autoscaling clusters
    retries: int = 2  # times a pack is run again after its worker or node was lost
    storage: str | None = None  # of checkpoints: a shared folder or a URL; null: none on a cluster
    checkpoint_s: float = 60.0  # least seconds between two checkpoints of a pack
    trackers: list[str] = field(default_factory=["tensorboard"].copy)  # or wandb, mlflow, trackio
    price_per_hour: float | None = None  # money per hour of what one pack occupies; null: not said
    slurm: SlurmConfig = field(default_factory=SlurmConfig)  # of the jobs of executor=slurm

    def __post_init__(self) -> None:
        require(
            self.name in ("local", "ray", "slurm"),
            f"`executor.name` must be local, ray or slurm, but got {self.name!r}.",
        )
        require_count("executor.workers", self.workers)
        require_count("executor.retries", self.retries, least=0)
        require_count("executor.nodes", self.nodes, most=2**16)
        require(
            self.placement in PLACEMENTS,
            f"`executor.placement` must be {' or '.join(PLACEMENTS)}, but got {self.placement!r}.",
        )
        require_positive("executor.cpus", self.cpus)
        for name in ("gpus", "wait_for_nodes_s", "checkpoint_s", "price_per_hour"):
            require_finite(f"executor.{name}", getattr(self, name), least=0)
        if self.memory_gib is not None:
            require_positive("executor.memory_gib", self.memory_gib)
        for name, value in self.resources.items():
            require_positive(f"executor.resources.{name}", value)
        unknown = [name for name in self.trackers if name not in TRACKERS]
        require(
            not unknown,
            f"`executor.trackers` may hold {', '.join(TRACKERS)}, but got {unknown}. Name some of "
            "those, or [] for none.",
        )
        require(
            not re.search(rf"{_USER_INFO}|{_QUERY}", self.storage or "", flags=re.IGNORECASE),
            "`executor.storage` must hold no password or token, since it is written into the "
            "results folder, but its URL holds one. Use the environment variables of the storage "
            "service instead (for example AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY).",
        )

    @property
    def is_here(self) -> bool:
        """Whether packs run on this machine alone, as far as the settings tell."""
        if self.name == "slurm":
            return self.slurm.cluster == "local"
        return self.name == "local" or self.address == "local"


@dataclass(frozen=True)
class TrainerConfig:
    """How the target is trained, which cannot change its result beyond float tolerance."""

    parallel: Parallel = Parallel.none  # how processes share a run; ddp and fsdp need torchrun
    accumulate: int = 1  # micro-batches a step and process: less memory, the same batch
    activation_checkpointing: bool = False  # compute each block's inside again in the backward
    log_every: int = 10  # steps between two lines of the log
    checkpoint_s: float = 600.0  # least seconds between two checkpoints; 0: at every log
    keep: int = 2  # newest checkpoints that stay on disk
    eval_every: int | None = None  # steps between held-out losses; null: at the end only
    sample_every: int | None = None  # steps between sample grids; null: at the end only
    sample_columns: int = 8  # samples a class in a grid
    sample_steps: int = 20  # model evaluations for each sample of a grid
    guidance: float = 2.0  # of the samples in a grid; 1: none

    def __post_init__(self) -> None:
        for name in ("accumulate", "log_every", "keep", "eval_every", "sample_every"):
            require_count(f"train.{name}", getattr(self, name))
        require_count("train.sample_columns", self.sample_columns, most=2**12)
        require_count("train.sample_steps", self.sample_steps, most=2**16)
        require_finite("train.checkpoint_s", self.checkpoint_s, least=0)
        require_finite("train.guidance", self.guidance, least=0)


# Peak dense TFLOP/s of one GPU by precision, without sparsity, as NVIDIA's data sheets give them
# for the SXM boards (L40S: PCIe). With `fp32` matrix products run in TF32.
GPU_PEAKS = {
    name: dict(zip((Precision.bf16, Precision.fp32, Precision.fp32_ieee), peaks, strict=True))
    for name, peaks in {
        "a100": (312.0, 156.0, 19.5),
        "h100": (989.0, 495.0, 67.0),
        "h200": (989.0, 495.0, 67.0),
        "b200": (2250.0, 1120.0, 75.0),
        "l40s": (362.0, 183.0, 91.6),
    }.items()
}


@dataclass(frozen=True)
class PlanConfig:
    """How GPU-hours are reckoned from FLOPs before anything runs on a GPU."""

    gpu: str = "h100"  # the GPU that hours are reckoned for: a100, h100, h200, b200 or l40s
    utilisation: float = 0.4  # share of that GPU's peak that training is assumed to reach
    confirm_gpu_hours: float | None = 100.0  # `run` and `sweep` ask above this; null: never

    def __post_init__(self) -> None:
        require(
            self.gpu in GPU_PEAKS,
            f"`plan.gpu` must be one of {', '.join(GPU_PEAKS)}, but got {abbreviate(self.gpu)}. "
            "For another GPU take the nearest, and set plan.utilisation in proportion.",
        )
        require_share("plan.utilisation", self.utilisation)
        require(
            self.utilisation > 0,
            f"`plan.utilisation` must be above 0, but got {self.utilisation:g}.",
        )
        require_finite("plan.confirm_gpu_hours", self.confirm_gpu_hours, least=0)

    def gpu_hours(self, flops: float, precision: Precision) -> float:
        """Return the GPU-hours that so many FLOPs take in a precision."""
        return flops / (self.utilisation * GPU_PEAKS[self.gpu][precision] * 1e12) / 3600


# The units in which a budget of compute may be given, and what is counted in each.
UNITS = {
    "gpuh": "GPU-hours",
    "cpuh": "core-hours",
    "h": "hours of wall time",
    "min": "minutes of wall time",
    "usd": "money, by executor.price_per_hour",
    "%": "the target run's FLOPs",
}


def amount_text(amount: float, unit: str) -> str:
    """Write a budget as it is typed."""
    return f"{rounded(amount, 3)}{unit}"
