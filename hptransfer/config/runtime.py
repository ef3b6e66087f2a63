"""Where a pack runs and who runs it: what cannot change a result beyond float tolerance."""

from __future__ import annotations

from dataclasses import dataclass, field

from hptransfer.config.checks import TAG, require


@dataclass(frozen=True)
class RuntimeConfig:
    """What cannot change a result beyond float tolerance: where and how a pack runs."""

    device: str = "cpu"  # cpu, cuda or cuda:N
    threads: int = 1  # CPU threads per pack
    pack_size: int | None = None  # trials trained together along the trial axis; null: measured
    compile: bool | None = None  # compile a block once for all depths; null: on a GPU only
    graph: bool | None = None  # capture the step in a CUDA graph; null: on a GPU
    data_folder: str | None = None  # where file-based data sets lie

    def __post_init__(self) -> None:
        require(self.threads > 0, f"`runtime.threads` must be positive, but got {self.threads}.")
        require(
            self.pack_size is None or self.pack_size > 0,
            f"`runtime.pack_size` must be positive, or null to measure it, but got "
            f"{self.pack_size}.",
        )
        require(
            not self.graph or self.on_gpu,
            "`runtime.graph` captures steps on a CUDA device, but got "
            f"runtime.device={self.device}. Set runtime.graph=null or runtime.device=cuda.",
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
class ExecutorConfig:
    """Who runs the packs."""

    name: str = field(default="ray", metadata=TAG)  # local (one after another) or ray
    workers: int | None = None  # packs at a time; null: as many as the resources allow
    cpus: float = 1.0  # CPUs a pack asks for
    gpus: float | None = None  # GPUs a pack asks for; null: 1 on cuda, else 0
    address: str = "local"  # Ray: local, auto or host:port

    def __post_init__(self) -> None:
        require(
            self.name in ("local", "ray"),
            f"`executor.name` must be local or ray, but got {self.name!r}.",
        )
        require(
            self.workers is None or self.workers > 0,
            f"`executor.workers` must be positive or null, but got {self.workers}.",
        )
        require(self.cpus > 0, f"`executor.cpus` must be positive, but got {self.cpus}.")
