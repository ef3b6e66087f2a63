"""The device that a runtime names: its hardware, memory, arithmetic and compiled code.

Models are compiled region by region: one compiled function per kind of block, whatever the depth.
Blocks of one kind share a function whose arguments are the blocks' parameters, so that it is
compiled once for all depths and for all packs of a shape. A CPU compiles the training step of a
model of few blocks as a whole. Torch keeps compiled code on disk between processes.
"""

from __future__ import annotations

import copy
import dataclasses
import gc
import os
import platform
import shutil
import sysconfig
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hptransfer.config import CustomConfig, RuntimeConfig, TrialConfig
from hptransfer.config.choices import Precision
from hptransfer.errors import MachineError, UserError
from hptransfer.models.families.custom import require_runs_on_gpu
from hptransfer.models.families.layers import FUSED_TOKENS
from hptransfer.system.memory import give_back_freed_memory
from hptransfer.system.version import package_version
from hptransfer.training.flops import trial_flops
from hptransfer.training.objectives import BoundInputs, bound_terms, bound_terms_of_fixed_shape

# What errors say that a device's memory ran out where torch's allocator, which raises
# `torch.OutOfMemoryError`, was not asked.
OUT_OF_MEMORY = (
    "CUDA error: out of memory",  # the runtime, when a graph is instantiated or first launched
    "CUDA driver error: out of memory",  # the driver, below torch's allocator
    "Triton Error [CUDA]: out of memory",  # the driver, when a kernel's code is loaded
    "CUBLAS_STATUS_ALLOC_FAILED",  # a library's own memory
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or the error that caused it, says that a device's memory ran out.

    While a CUDA graph is captured, the out-of-memory error is the context of the capture's error.
    """
    while error is not None:
        said = str(error)
        if isinstance(error, torch.OutOfMemoryError) or any(text in said for text in OUT_OF_MEMORY):
            return True
        error = error.__cause__ or error.__context__
    return False


def release_memory(device: torch.device) -> None:
    """Free the memory of objects that nothing refers to."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    else:
        give_back_freed_memory()


def trial_too_large(config: TrialConfig, device: torch.device) -> MachineError:
    """Return the error of a single trial that does not fit into a device's memory."""
    budget = config.budget
    memory = ""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        memory = memory_text(total, total - free - torch.cuda.memory_reserved(device))
    return MachineError(
        f"One trial must fit into the memory of {device_name(device)}{memory}, but width "
        f"{config.model.width} with batch size {budget.batch_size} and "
        f"{_patches(config)} tokens does not. Use a larger device, leave this "
        "width out, or lower budget.batch_size (which changes the question); no finished trial "
        "is lost."
    )


def memory_text(total: float, of_others: float) -> str:
    """Return a GPU's memory in words; what other processes hold of it too, if it is a tenth.

    Of these bytes a few hundred MiB are of this process: its CUDA context.
    """
    taken = f", of which other processes hold {of_others / 2**30:.0f} GiB"
    return f", which has {total / 2**30:.0f} GiB{taken if of_others > 0.1 * total else ''}"


def torch_device(runtime: RuntimeConfig) -> torch.device:
    """Return the runtime's device.

    Raises:
        UserError: torch does not see that device.
    """
    if runtime.device.split(":")[0] not in ("cpu", "cuda"):
        raise UserError(
            f"`runtime.device` must be cpu, cuda or cuda:N, but got {runtime.device!r}."
        )
    device = torch.device(runtime.device)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"runtime.device={runtime.device} needs that GPU, but torch sees "
            f"{torch.cuda.device_count()} here. Set runtime.device=cpu or run on a GPU machine."
        )
    return device


def require_device_fits(config: TrialConfig, runtime: RuntimeConfig, *, captured: bool) -> None:
    """Raise a `UserError` if a custom model would not run on a GPU, where that is asked for.

    Args:
        captured: whether its steps are captured in a CUDA graph.
    """
    if isinstance(config.model, CustomConfig) and runtime.on_gpu:
        at_base = dataclasses.replace(config.model, width=config.model.base_width)
        require_runs_on_gpu(at_base, config.layout, captured=captured)


def device_name(device: torch.device) -> str:
    """Return a device's name for ledger rows and run records: `cpu`, or the GPU's own name."""
    return "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device)


def hardware_model(device: torch.device) -> str:
    """Return the hardware's model name: the GPU's, or that of the CPU as Linux tells it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _told_of_cpu("model name") or platform.machine()


def _told_of_cpu(field: str) -> str:
    """Return what Linux tells of the first core under this name; empty if nothing."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    told = [line.partition(":")[2].strip() for line in lines if line.startswith(field)]
    return told[0] if told else ""


@cache
def onednn_multiplies() -> bool:
    """Whether oneDNN, and not MKL, takes the products of float32 matrices on this CPU.

    Torch has MKL take them, which uses AVX-512 on Intel's processors only. On AMD's oneDNN does,
    and is up to twice as fast. Torch hands float32 products to oneDNN only where it may round
    factors to bfloat16; without tiles for bfloat16 (AMX) it does not round, which is tried out
    here. The answer depends on the machine alone, since other kernels have other last bits.
    """
    if _told_of_cpu("vendor_id") != "AuthenticAMD" or not torch.cpu._is_avx512_supported():
        return False
    generator = torch.Generator().manual_seed(0)
    left, right = torch.rand(2, 2, 64, 64, generator=generator)
    exact = left.double() @ right.double()
    with _products_by_onednn():
        error = (torch.bmm(left, right) - exact).abs().max() / exact.abs().max()
    return float(error) < 1e-6  # 1e-3 with factors in bfloat16


# Multiplications from which torch hands a batch of products to oneDNN, and the least sides that are
# assumed of a trial's products: samples of a batch, width, and this.
ONEDNN_LEAST, LEAST_SIDE = 2**12, 16


def products_library(config: TrialConfig, device: torch.device) -> str:
    """Return the library that takes a trial's products of float32 matrices; empty on a GPU.

    Torch leaves small products to MKL and counts those of all trials of a pack together. So that a
    trial has the same bits alone, oneDNN takes none where one trial's may be too small. It takes
    none either where a family's attention is torch's fused kernel: the kernel multiplies a few
    tokens of one head at a time, for which calls of oneDNN take 8 times as long. (In a pack, custom
    models do without that kernel.)
    """
    if device.type != "cpu":
        return ""
    multiplications = config.budget.batch_size * config.model.width * LEAST_SIDE
    fits = multiplications > ONEDNN_LEAST and not _fuses_attention(config)
    return "oneDNN" if fits and onednn_multiplies() else "torch's default"


def _fuses_attention(config: TrialConfig) -> bool:
    """Whether a family's attention is torch's fused kernel; told from patches and captions."""
    if isinstance(config.model, CustomConfig):
        return False
    return _patches(config) + config.data.layout.caption_tokens >= FUSED_TOKENS


def _patches(config: TrialConfig) -> int:
    """Return how many patches a sample has; its pixels or latent cells where a model has none."""
    return (config.data.layout.image_size // getattr(config.model, "patch_size", 1)) ** 2


@contextmanager
def _products_by_onednn() -> Iterator[None]:
    settings: Any = torch.backends.mkldnn  # whose members are made at run time
    before = settings.matmul.fp32_precision
    settings.matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        settings.matmul.fp32_precision = before


@contextmanager
def arithmetic(config: TrialConfig, device: torch.device) -> Iterator[None]:
    """Set the device's arithmetic for a trial's forward and backward in a `with` block.

    On a CPU float32 products are those of `products_library`. On a GPU TF32 products are allowed as
    the precision says, and sums are taken in the same order in every run. In the families an
    operation that cannot do so raises `RuntimeError`; a custom model may hold such operations,
    which then only warn. Torch's fused attention kernels keep the order only where operations
    raise, and cuDNN's attention is never used.
    """
    if device.type == "cpu":
        by_onednn = products_library(config, device) == "oneDNN"
        with _products_by_onednn() if by_onednn else nullcontext():
            yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at the first product
    settings: list[tuple[Any, str, Any]] = [
        (torch.utils.deterministic, "fill_uninitialized_memory", False),
    ]
    before = [getattr(owner, name) for owner, name, _ in settings]
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn_attention = torch.backends.cuda.cudnn_sdp_enabled()
    for owner, name, value in settings:
        setattr(owner, name, value)
    torch.use_deterministic_algorithms(True, warn_only=isinstance(config.model, CustomConfig))
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        with tf32(allowed=config.precision is not Precision.fp32_ieee):
            yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(cudnn_attention)
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        for (owner, name, _), value in zip(settings, before, strict=True):
            setattr(owner, name, value)


@contextmanager
def tf32(*, allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 in a GPU's products and convolutions in a `with` block.

    Torch has two settings of it, `allow_tf32` and `fp32_precision`, and raises an error where the
    first is read while the two disagree, as after a model's module has set the second. In the block
    they agree, and after it each is what it was.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    owners: list[tuple[Any, list[Any]]] = [(matmul, [matmul]), (cudnn, [cudnn.conv, cudnn.rnn])]
    before = [[part.fp32_precision for part in parts] for _, parts in owners]
    allowed_before = [_allows_tf32(owner, parts) for owner, parts in owners]
    for owner, parts in owners:
        _set_tf32(owner, allowed, parts, ["tf32" if allowed else "ieee"] * len(parts))
    try:
        yield
    finally:
        for (owner, parts), old, new in zip(owners, allowed_before, before, strict=True):
            _set_tf32(owner, old, parts, new)


def _allows_tf32(owner: Any, parts: Sequence[Any]) -> bool:
    """Return `owner.allow_tf32`; where reading it raises, `fp32_precision` of its parts is lost."""
    with suppress(RuntimeError):
        return owner.allow_tf32
    for part in parts:
        part.fp32_precision = "tf32"
    try:
        return owner.allow_tf32
    except RuntimeError:  # it still disagrees
        return False


def _set_tf32(owner: Any, allows: bool, parts: Sequence[Any], precisions: Sequence[str]) -> None:
    owner.allow_tf32 = allows  # which sets the parts, too
    for part, precision in zip(parts, precisions, strict=True):
        part.fp32_precision = precision


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Return the context in which products are bfloat16, if the precision is bf16."""
    enabled = precision is Precision.bf16
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled, cache_enabled=False)


def bound_terms_on(device: torch.device, runtime: RuntimeConfig) -> Callable[[BoundInputs], Tensor]:
    """Return the function of a learned variance's bound: of fixed shape but on an eager CPU."""
    if runtime.compiled:
        return compiled(bound_terms_of_fixed_shape)
    return bound_terms if device.type == "cpu" else bound_terms_of_fixed_shape


# Shapes that one function may be compiled for in one process. Torch's default of 8 would silently
# leave the ninth width of a sweep uncompiled.
MOST_SHAPES = 512

COMPILERS = ("g++", "clang++", "gcc", "clang")  # commands, one of which torch.compile needs

_BY_KIND: dict[Hashable, Callable[..., Any]] = {}


# FLOPs of a trial from which a CPU compiles it by default. Compiling a pack's step takes 30 to 60
# seconds, once for each shape and size of packs, and saves 40 % of the time after; a core does 40
# to 60 GFLOP/s without, so a trial of this many takes about 40 s, and a pack has several.
COMPILED_FLOPS = 2e12


def settled(runtime: RuntimeConfig, config: TrialConfig) -> RuntimeConfig:
    """Return the runtime with `compile` decided for a trial, where it is null on a CPU.

    It depends on the trial and on whether there is a C++ compiler, and not on the trial's pack, so
    that a trial has the same bits alone.
    """
    if runtime.compile is not None or runtime.on_gpu:
        return runtime
    pays = not isinstance(config.model, CustomConfig) and trial_flops(config) >= COMPILED_FLOPS
    return dataclasses.replace(runtime, compile=pays and has_compiler())


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that is compiled as a whole for every shape it is called with.

    Kernels are not chosen by timing them, where torch can do without: the order of their sums would
    differ from process to process.

    Raises:
        UserError: there is no C++ compiler, or Python's header is missing.
    """
    from torch._inductor import config as inductor  # slow to import, and needed only here

    require_compiler()
    if hasattr(inductor, "deterministic"):
        inductor.deterministic = True
    torch._dynamo.config.recompile_limit = MOST_SHAPES
    torch._dynamo.config.accumulated_recompile_limit = MOST_SHAPES
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    return torch.compile(function, fullgraph=True, dynamic=False)


@contextmanager
def refuse_uncompilable(name: str) -> Iterator[None]:
    """Raise a `UserError` if the custom model `name` cannot be compiled, in a `with` block."""
    from torch._dynamo.exc import TorchDynamoException  # slow to import, and needed only here

    try:
        yield
    except TorchDynamoException as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"`runtime.compile` needs a model that torch.compile accepts as a whole, but {name} "
            f"gives: {reason} ... Change the model, or leave runtime.compile null."
        ) from error


def _missing_for_compiling() -> list[str]:
    """Return what torch.compile needs and the machine lacks, in words.

    Generated code, on a CPU by Inductor and on a GPU by Triton, is built into extension modules of
    Python.
    """
    missing = []
    named = [os.environ[name] for name in ("CXX", "CC") if name in os.environ]
    if not any(shutil.which(name) for name in (*named, *COMPILERS)):
        missing.append(f"a C++ compiler (none of {', '.join(COMPILERS)} is on the PATH)")
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")  # as Triton does
    headers = Path(sysconfig.get_paths(scheme)["include"])
    if not (headers / "Python.h").is_file():
        missing.append(f"Python's headers (there is no {headers / 'Python.h'})")
    return missing


def has_compiler() -> bool:
    """Whether the machine has everything that torch.compile needs."""
    return not _missing_for_compiling()


def require_compiler() -> None:
    """Raise a `UserError` if something that torch.compile needs on the machine is missing."""
    if missing := _missing_for_compiling():
        raise UserError(
            f"`runtime.compile` needs {' and '.join(missing)}. Install what is missing (on Debian: "
            "apt install g++ python3-dev), or set runtime.compile=false."
        )


# Blocks up to which a CPU compiles a training step as a whole. A step of two blocks takes 30 to 60
# seconds of a core to compile, a block by itself 14, whatever the depth.
MOST_BLOCKS = 4


def compiles_whole(model: nn.Module, device: torch.device) -> bool:
    """Whether a training step of a model of our families is compiled as a whole, and not by block.

    A CPU then takes 0.6 to 0.8 of the time, since what lies between matrix products is one loop
    each, and Python calls one function a step instead of four a block.
    """
    lists = [child for child in model.modules() if isinstance(child, nn.ModuleList)]
    return device.type == "cpu" and sum(map(len, lists)) <= MOST_BLOCKS


def compile_blocks(model: nn.Module) -> None:
    """Replace the forward of every block in an `nn.ModuleList` by its kind's compiled function."""
    for blocks in [child for child in model.modules() if isinstance(child, nn.ModuleList)]:
        for block in blocks:
            block.forward = partial(_run, block, _function_of(block))


def _run(block: nn.Module, function: Callable[..., Any], *arguments: Tensor) -> Any:
    """Call a block's function with its present tensors, which a functional call may replace."""
    tensors = {
        **dict(block.named_parameters(remove_duplicate=False)),
        **dict(block.named_buffers(remove_duplicate=False)),
    }
    return function(tensors, arguments)


def _function_of(block: nn.Module) -> Callable[..., Any]:
    kind = block_kind(block)
    if kind not in _BY_KIND:
        own = copy.deepcopy(block).to("meta")  # the structure only: tensors are arguments
        _BY_KIND[kind] = compiled(partial(functional_call, own))
    return _BY_KIND[kind]


def block_kind(block: nn.Module) -> Hashable:
    """Return the classes and plain attributes that blocks of one compiled function share."""
    plain = (int, float, bool, str, tuple, type(None))
    return tuple(
        (name, type(child), *sorted((k, v) for k, v in vars(child).items() if isinstance(v, plain)))
        for name, child in block.named_modules()
    )


def software_versions() -> dict[str, str]:
    """Return the versions of hptransfer and torch."""
    return {"hptransfer": package_version(), "torch": torch.__version__}


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return the entries of `now` that `was` does not share, as text; empty if all are shared."""
    changed = [name for name in now if was.get(name) != now[name]]
    return ", ".join(f"{name} was {was.get(name)} and is {now[name]}" for name in changed)
