"""The closed choices a config may make, as enums; standard library only."""

from __future__ import annotations

from enum import Enum


class Scaling(Enum):
    """How a model scales away from its base width (arXiv 2203.03466, Table 8)."""

    mup = "mup"  # µP: initialisation and learning rates follow the width by role
    standard = "standard"  # initialisation by fan-in, one learning rate for all parameters
    standard_embed = "standard_embed"  # standard, with the input's learning rate times m
    complete = "complete"  # µP with rules for depth, batch size and duration (arXiv 2512.22382)


# The parametrizations under which a width transfers, so that their coordinate check must pass.
TRANSFERRING = (Scaling.mup, Scaling.complete)


def arm_name(label: str) -> str:
    """Return an arm's name for people: µP for `mup`, any other arm's own label."""
    return "µP" if label == Scaling.mup.value else label


class Broken(Enum):
    """Deliberate faults in µP, which the coordinate check must find."""

    none = "none"  # no fault
    readout = "readout"  # the readout's 1/m is forgotten
    readout_twice = "readout_twice"  # the readout's 1/m is applied twice
    hidden_lr = "hidden_lr"  # hidden matrices get m times their learning rate
    hidden_lr_squared = "hidden_lr_squared"  # hidden matrices get 1/m of their learning rate
    input_lr = "input_lr"  # input weights get lr/m instead of lr
    branch = "branch"  # residual branches keep their size at every depth


class Init(Enum):
    """What a model is at its base width: see `hptransfer.models.parametrization.rules`."""

    paper = "paper"  # that of arXiv 2505.15270
    adaln_zero = "adaln_zero"  # that of `paper`, with adaptive norms that start at zero
    original = "original"  # as the model's authors released it


class Conditioning(Enum):
    """The condition that a model gets with a sample besides its timestep."""

    none = "none"  # nothing
    label = "label"  # a class
    caption = "caption"  # the features of a text


class TimestepSampling(Enum):
    """How training timesteps are drawn from a uniform quantile."""

    uniform = "uniform"  # the quantile itself
    logit_normal = "logit_normal"  # the logistic function of a normal (arXiv 2403.03206, Eq. 19)


class Prediction(Enum):
    """What a model of a rectified flow puts out; the loss is on the velocity in either case."""

    v = "v"  # the velocity, noise - x
    x = "x"  # the data without noise (arXiv 2511.13720)


class Sampler(Enum):
    """The rule by which a step of sampling moves along the probability-flow ODE."""

    ddim = "ddim"  # first order, of noise predictions (arXiv 2010.02502, Eq. 12 with σ = 0)
    euler = "euler"  # first order, of velocities (arXiv 2209.03003)
    dpm_solver = "dpm_solver"  # second-order multistep, of data (arXiv 2211.01095, Algorithm 2)


class AutoShift(Enum):
    """A shift of timesteps that follows from the data's shape."""

    auto = "auto"  # the root of C·H·W / 4096


class AdaLN(Enum):
    """How the blocks get shifts, scales and gates from the conditioning."""

    single = "single"  # one map for all blocks, and a learned table a block (arXiv 2310.00426)
    block = "block"  # a map a block (arXiv 2212.09748)


class BetaSchedule(Enum):
    """How DDPM's variances go from the first step to the last."""

    linear = "linear"  # arXiv 2006.11239
    scaled_linear = "scaled_linear"  # linear in the square root (arXiv 2112.10752's code)


class WeightDecayMode(Enum):
    """What a tensor loses per step, as a share of itself, times the schedule.

    With depth scaling `mup` and `unscaled` take r^(depth_alpha - 1) of that in blocks.
    """

    mup = "mup"  # lr·λ for every tensor: hidden matrices have rate lr/m and decay λ·m
    independent = "independent"  # λ for every tensor, whatever the learning rate
    unscaled = "unscaled"  # hidden matrices lose lr·λ/m, all others lr·λ (a control)


class Decayed(Enum):
    """The parameters that weight decay acts on."""

    all = "all"  # every one
    matrices = "matrices"  # hidden and output weights: no gain, bias, embedding or first layer


class MuonScale(Enum):
    """What multiplies an orthogonalised update of a matrix with `out` rows and `in` columns."""

    spectral = "spectral"  # √(out/in); the rate does not depend on width (arXiv 2310.17813)
    original = "original"  # √max(1, out/in); the rate does not depend on width
    match_rms_adamw = "match_rms_adamw"  # 0.2·√max(out, in); the rate times m^-1/2


class EpsScaling(Enum):
    """Whether Adam's epsilon follows the width under `mup`; under `complete` it always does."""

    none = "none"  # the same everywhere, as the mup package does
    width = "width"  # eps/m for every tensor with a width dimension (arXiv 2407.05872)


class Schedule(Enum):
    """The learning rate's shape after warm-up."""

    constant = "constant"  # the base rate to the end
    cosine = "cosine"  # to zero over the rest of the run
    linear_decay = "linear_decay"  # constant, then linear to zero over `decay_fraction`


class Weights(Enum):
    """Which weights decide the loss of a trial."""

    raw = "raw"  # those of the last step
    ema = "ema"  # their moving average


class Precision(Enum):
    """The arithmetic of a trial's training; weights and moments are float32 in all of them."""

    fp32 = "fp32"  # matrix products in TF32 where the device has it
    fp32_ieee = "fp32_ieee"  # no TF32
    bf16 = "bf16"  # autocast to bfloat16


class Parallel(Enum):
    """How the processes of one training run share its work."""

    none = "none"  # one process
    ddp = "ddp"  # each has the whole model and a part of every batch
    fsdp = "fsdp"  # each has a part of every parameter and a part of every batch (FSDP2)


class Method(Enum):
    """How a sweep's points are chosen."""

    grid = "grid"  # every combination of the axes' points
    sobol = "sobol"  # scrambled Sobol points over the axes' ranges
    tpe = "tpe"  # Optuna's tree-structured Parzen estimator, in rounds
    gp = "gp"  # Optuna's Gaussian process, in rounds
    cmaes = "cmaes"  # Optuna's CMA-ES over two hyperparameters or more, in rounds
    refine = "refine"  # coarse first, then where the target's optimum gains most


class Status(Enum):
    """How a trial ended. Only `completed` carries a loss."""

    completed = "completed"
    diverged = "diverged"
    stopped = "stopped"
