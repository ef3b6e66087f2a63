"""Where a pack runs and who runs it: what cannot change a result beyond float tolerance."""

from __future__ import annotations

from dataclasses import dataclass, field

from hptransfer.config.checks import TAG, require


@dataclass(frozen=True)
class RuntimeConfig:
    """What cannot change a result beyond float tolerance: where and how a pack runs."""

    device: str = "cpu"  # cpu, cuda or cuda:N
    threads: int = 1  # CPU threads per pack
    pack_size: int = 4  # trials trained together along the trial axis
    data_folder: str | None = None  # where file-based data sets lie

    def __post_init__(self) -> None:
        for name in ("threads", "pack_size"):
            value = getattr(self, name)
            require(value > 0, f"`runtime.{name}` must be positive, but got {value}.")


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
