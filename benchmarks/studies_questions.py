"""What the studies ask: sweep, families, commands, and what the paper found (arXiv 2505.15270)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FAMILIES = {"dit": "DiT", "uvit": "U-ViT", "pixart": "PixArt-α", "mmdit": "MMDiT"}
GPU = "_fashion"  # how the name of a sweep's GPU edition ends


@dataclass(frozen=True)
class Question:
    """A question: the sweep that asks it, of which families, and what the paper found."""

    title: str
    sweep: str  # of the CPU edition: sweeps/<sweep>.yaml
    paper: str
    families: tuple[str, ...] = ("dit",)  # the sweep file's own first
    verb: str = "run"  # the command that trains it
    then: tuple[str, ...] = ()  # commands after that; {} is the study's folder
    record: str = "estimates"  # what holds the answer, written by the last command


@dataclass(frozen=True)
class Edition:
    """A question asked of one family on one kind of device; its folder has this name."""

    question: Question
    sweep: str
    family: str

    @property
    def name(self) -> str:
        """The folder's name, as `hptransfer` gives it."""
        return self.sweep if self.is_own else f"{self.sweep}-{self.family}"

    @property
    def is_own(self) -> bool:
        """Whether the family is the one that the sweep's file names."""
        return self.family == self.question.families[0]

    @property
    def needs_gpu(self) -> bool:
        """Whether it is meant for a GPU."""
        return self.sweep.endswith(GPU)

    def commands(self, *overrides: str) -> tuple[str, ...]:
        """Return what to type, from the repository's root."""
        model = () if self.is_own else (f"model={self.family}",)
        data = ("runtime.data_folder=FOLDER",) if self.needs_gpu else ()
        ran = ("hptransfer", self.question.verb, self.sweep, *model, *data, *overrides)
        folder = f"results/studies/{self.name}"
        return (
            " ".join((*ran, "--results results/studies")),
            *(words.format(folder) for words in self.question.then),
        )


_RATES = (
    "2^-10 of five base rates (2^-13 to 2^-9) is best at widths 144, 288 and 576 of DiT and is "
    "used at 1152; PixArt-α's 2^-10 is found at width 288 and used at 1152"
)
_ALL = tuple(FAMILIES)

QUESTIONS = (
    Question("the main job: the learning rate over two doublings", "quickstart", _RATES, _ALL),
    Question("a. the learning rate, three parametrizations", "lr_transfer", _RATES, _ALL),
    Question(
        "b. the scale of the initialisation",
        "init_scale",
        "not among the HPs that it searched: the base rate alone for DiT and PixArt-α, four "
        "others for MMDiT",
    ),
    Question(
        "b. the scale of the output",
        "output_scale",
        "a multiplier of the readout is an option of the released DiT-µP; we know of no figure",
    ),
    Question(
        "c. several HPs by adaptive search",
        "mmdit_search",
        "80 random trials at 0.18B over base rate, gradient clip, weight of REPA and warm-up, "
        "used at 18B: the rate not near the edge of stability, clip 1, warm-up negligible",
        families=("mmdit",),
    ),
    Question(
        "d. batch size and training time",
        "conditions",
        "base rates transfer over widths, batch sizes and training steps; proxies of 200K "
        "iterations for a target of 2.4M (DiT), of 5 epochs for one of 30 (PixArt-α)",
    ),
    Question(
        "e. the target run against the standard parametrization",
        "convergence",
        "DiT-XL/2 under µP needs 2.4M iterations for the FID of the original's 7M at its default "
        "rate: 2.9 times fewer; tuning costs 5.5 % of one training run (PixArt-α), 3 % of the "
        "experts' search (MMDiT)",
        _ALL,
        verb="sweep",
        then=("python -m benchmarks.convergence {}",),
        record="convergence",
    ),
    Question(
        "f. best by Fréchet distance, best by loss",
        "frechet",
        "chooses rates by FID-50K; we know of no comparison with the validation loss",
        then=("hptransfer fit {} --metric frechet_distance",),
        record="by_metric",
    ),
)


def editions(question: Question, sweeps: Path) -> Sequence[Edition]:
    """List a question's editions: each family on the CPU, and on a GPU where a sweep file is."""
    of_cpu = [Edition(question, question.sweep, family) for family in question.families]
    gpu = f"{question.sweep}{GPU}"
    if not (sweeps / f"{gpu}.yaml").is_file():
        return of_cpu
    return [*of_cpu, *(Edition(question, gpu, family) for family in question.families)]
