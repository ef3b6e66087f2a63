"""The processes of a training run, and how a model is placed on them.

First the process group and what its members exchange. Then models: placed under DDP or FSDP2, their
blocks compiled, their activations recomputed. Then tensors of which each process may hold a part.
Last, advice where the memory is too small.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from hptransfer.config import RuntimeConfig, TrainerConfig
from hptransfer.config.choices import Parallel
from hptransfer.errors import MachineError, UserError, require
from hptransfer.training.device import compile_blocks, compiled, is_out_of_memory, torch_device


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a run, as one of them sees them.

    All processes must call the methods that exchange tensors, in the same order.
    """

    rank: int
    size: int
    device: torch.device  # of this process
    parallel: Parallel
    owned: bool  # whether this run made the process group, and therefore ends it

    @staticmethod
    def of(trainer: TrainerConfig, runtime: RuntimeConfig) -> ProcessGroup:
        """Set this process's threads, and join the processes that torchrun started.

        An existing process group, such as Ray Train's, is used as it is.

        Raises:
            UserError: the number of processes does not fit `train.parallel`.
        """
        torch.set_num_threads(runtime.threads)
        started = int(os.environ.get("WORLD_SIZE", "1"))
        if trainer.parallel is Parallel.none:
            require(
                started == 1,
                f"`train.parallel=none` trains in one process, but torchrun started {started}. "
                "Set train.parallel=ddp or fsdp, or start one process.",
            )
            return ProcessGroup(0, 1, torch_device(runtime), trainer.parallel, owned=False)
        way = trainer.parallel.value
        require(
            dist.is_initialized() or "RANK" in os.environ,
            f"`train.parallel={way}` shares a run among several processes, but they were not "
            "started together. Run `torchrun --nproc-per-node N -m hptransfer train ... "
            f"train.parallel={way}`, or set train.parallel=none.",
        )
        device = _own_device(runtime)
        owned = not dist.is_initialized()
        if owned:
            dist.init_process_group("gloo" if device.type == "cpu" else "nccl")
        return ProcessGroup(dist.get_rank(), dist.get_world_size(), device, trainer.parallel, owned)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether a flag is set in any process."""
        return bool(self.total(torch.tensor(float(flag), device=self.device)) > 0)

    def mean(self, tensor: Tensor) -> Tensor:
        """Return the mean of a tensor over the processes."""
        return self.total(tensor) / self.size

    def total(self, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor over the processes."""
        if self.parallel is Parallel.none:
            return tensor
        summed = tensor.detach().clone()
        dist.all_reduce(summed)
        return summed

    def from_first(self, tensor: Tensor) -> Tensor:
        """Return the first process's tensor on this process's device.

        Other processes pass a tensor of the same shape, whose values do not matter.
        """
        tensor = tensor.to(self.device)
        if self.parallel is not Parallel.none:
            dist.broadcast(tensor, src=0)
        return tensor

    def facts_from_first(self, facts: Any) -> Any:
        """Return the first process's `facts`: anything that JSON can hold."""
        if self.parallel is Parallel.none:
            return facts
        text = torch.frombuffer(bytearray(json.dumps(facts).encode()), dtype=torch.uint8)
        length = self.from_first(torch.tensor(len(text)))
        said = text if self.is_first else torch.empty(int(length), dtype=torch.uint8)
        return json.loads(self.from_first(said).cpu().numpy().tobytes())

    def close(self) -> None:
        """Leave the process group, if this run made it."""
        if self.owned:
            dist.destroy_process_group()


def is_lost_process(error: RuntimeError) -> bool:
    """Whether an error means that another process of the run has ended."""
    return isinstance(error, dist.DistError) or "gloo/transport" in str(error)


def _own_device(runtime: RuntimeConfig) -> torch.device:
    """Return this process's device: on a machine with several GPUs, the one of its local rank."""
    if not runtime.on_gpu:
        return torch_device(runtime)
    require(
        runtime.device == "cuda",
        "Each process of a parallel run takes a GPU of its own, so `runtime.device` must be cuda, "
        f"but got {runtime.device}.",
    )
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local >= torch.cuda.device_count():
        raise UserError(
            f"Each process of a parallel run needs a GPU of its own, but process {local} of this "
            f"machine finds {torch.cuda.device_count()}. Start as many as there are GPUs."
        )
    device = torch.device("cuda", local)
    torch.cuda.set_device(device)
    return device


def distribute(model: nn.Module, group: ProcessGroup, *, may_skip: bool) -> nn.Module:
    """Put a model on the group's devices, and return the module to call in training.

    Under FSDP2 the model's parameters become DTensors, each divided along its first dimension, so
    that every parameter remains one parameter with its own learning rate. With `may_skip` a step
    may leave parameters without a gradient.

    Raises:
        UserError: a parameter has no dimension that FSDP2 could divide.
    """
    match group.parallel:
        case Parallel.none:
            return model.to(group.device)
        case Parallel.ddp:
            return DistributedDataParallel(
                model.to(group.device),
                gradient_as_bucket_view=True,
                find_unused_parameters=may_skip,
            )
        case Parallel.fsdp:
            _require_shardable(model)
            # The model's output is a view of its patches. FSDP2 warns, since writing into a view
            # would be wrong; nothing writes into it.
            warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
            mesh = init_device_mesh(group.device.type, (group.size,))
            # The root's parameters too are gathered anew in each pass, so that the weights which
            # `Engine.sampling_model` exchanges between passes are used.
            for part in (*blocks_of(model), model):
                fully_shard(part, mesh=mesh, reshard_after_forward=True)
            return model.to(group.device)


def _require_shardable(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        require(
            parameter.ndim > 0,
            "`train.parallel=fsdp` cuts parameters along their first dimension, but "
            f"{name} has none. Give it the shape (1,), or set train.parallel=ddp.",
        )


@contextmanager
def gradients_kept(module: nn.Module, *, last: bool) -> Iterator[None]:
    """Let DDP sum a step's gradients over the processes only in the `last` micro-batch.

    FSDP2 sums them after each micro-batch, so that no process holds a complete gradient.
    """
    ddp = isinstance(module, DistributedDataParallel)
    with module.no_sync() if ddp and not last else nullcontext():
        yield


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """Return the entries of a model's outermost `nn.ModuleList`s, in the model's order."""
    found: list[nn.Module] = []
    for child in model.children():
        found += list(child) if isinstance(child, nn.ModuleList) else blocks_of(child)
    return found


def compile_regions(model: nn.Module, *, custom: bool) -> None:
    """Compile a model block by block: one function per kind of block, or per block if `custom`.

    A custom model without lists of blocks is compiled as a whole.
    """
    if not custom:
        compile_blocks(model)
        return
    for region in blocks_of(model) or [model]:
        region.forward = compiled(region.forward)


def checkpoint_activations(model: nn.Module) -> None:
    """Store only each block's input; the block is computed again in the backward pass.

    Raises:
        UserError: the model has no lists of blocks.
    """
    blocks = blocks_of(model)
    if not blocks:
        raise UserError(
            "`train.activation_checkpointing` works block by block, but the model has no "
            "nn.ModuleList of blocks. Put its blocks into one, or leave it off."
        )
    for block in blocks:
        again = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
        block.forward = again


def local_part(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds, as a view of that tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gathered(tensor: Tensor) -> Tensor:
    """Return the complete tensor, gathered from all processes that hold parts of it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered_like(part: Tensor, like: Tensor) -> Tensor:
    """Return the complete tensor of which each process has the part that it has of `like`."""
    if not isinstance(like, DTensor):
        return part
    return DTensor.from_local(
        part, like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
    ).full_tensor()


def part_like(value: Tensor, like: Tensor) -> Tensor:
    """Return this process's part, as it has one of `like`, of a value equal in all processes."""
    if isinstance(like, DTensor):
        value = distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
    return local_part(value)


def assign(tensor: Tensor, value: Tensor) -> None:
    """Write a complete value, equal in all processes, into a tensor or this process's part."""
    local_part(tensor).copy_(part_like(value, tensor))


@contextmanager
def explain_out_of_memory(trainer: TrainerConfig, micro_batch: int) -> Iterator[None]:
    """Replace an out-of-memory error in a `with` block by a `MachineError` that says what helps."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        ways = [f"raise train.accumulate above {trainer.accumulate}"] * (micro_batch > 1)
        if not trainer.activation_checkpointing:
            ways.append("set train.activation_checkpointing=true")
        if trainer.parallel is not Parallel.fsdp:
            ways.append("share the model among GPUs by train.parallel=fsdp")
        ways.append("use more or larger GPUs")
        raise MachineError(
            f"The run must fit into the device's memory, but it does not with {micro_batch} "
            "samples a process at a time. To need less memory without changing the result, "
            f"{', or '.join(ways)}."
        ) from error
