"""What the studies ask: sweeps, families, commands, and what the paper found (arXiv 2505.15270)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FAMILIES = {
    "dit": "DiT",
    "uvit": "U-ViT",
    "pixart": "PixArt-α",
    "mmdit": "MMDiT",
    "dit_modern": "Modern DiT",
}
GPU = "_fashion"  # how the name of a sweep's GPU edition ends


@dataclass(frozen=True)
class Question:
    """One sweep file, the families that it is asked of, and how it is run."""

    sweep: str  # of the CPU edition: sweeps/<sweep>.yaml
    families: tuple[str, ...] = ("dit",)  # the sweep file's own first
    verb: str = "run"  # the command that trains it
    then: tuple[str, ...] = ()  # commands after that; {} is the study's folder
    record: str = "estimates"  # what holds the answer, written by the last command


@dataclass(frozen=True)
class Section:
    """A section of results/README.md: the sweeps that answer one question, and their picture."""

    name: str
    title: str
    asked: str
    questions: tuple[Question, ...]
    picture: str  # in results/
    shows: str  # what the picture shows, for those who do not see it
    paper: str  # what the paper found


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


PUBLISHED = ("dit", "uvit", "pixart", "mmdit")  # families of the paper, which most questions ask

SECTIONS = (
    Section(
        "rates",
        "Does the best learning rate stay when the model widens?",
        "Four families are swept at five widths. The target is twice as wide as the widest proxy.",
        (Question("lr_transfer", PUBLISHED),),
        "studies/families.png",
        "Loss against learning rate at five widths, for four families, µP above standard",
        "The rate 2^-10, one of five between 2^-13 and 2^-9, is best at widths 144, 288 and 576 "
        "of DiT and is used at 1152. PixArt-α's 2^-10 is found at width 288 and used at 1152.",
    ),
    Section(
        "muon",
        "Does Muon's best learning rate stay?",
        "Hidden matrices are trained by Muon, all other parameters by AdamW at one fixed rate "
        "([how µP treats both](../docs/concepts/muon_beside_adam.md)). Muon's rate is swept at "
        "five widths, as AdamW's [above](#does-the-best-learning-rate-stay-when-the-model-widens). "
        "The last row is the quickstart's three widths.",
        (Question("lr_transfer_muon", PUBLISHED), Question("quickstart_muon")),
        "studies/lr_transfer_muon/figures/summary.png",
        "Loss against Muon's learning rate at five widths of DiT",
        "It trains with AdamW, and has nothing on Muon.",
    ),
    Section(
        "quickstart",
        "The same question in a few minutes",
        "This is the main job, `hptransfer run quickstart`: three widths and a target of width "
        "192, for each family.",
        (Question("quickstart", (*PUBLISHED, "dit_modern")),),
        "studies/quickstart/figures/summary.png",
        "Loss against learning rate at three widths of DiT, µP beside standard",
        "As above.",
    ),
    Section(
        "scales",
        "Do the best scales of initialisation and output stay?",
        "One scale is swept at a time, at a fixed learning rate: the one that is best at the base "
        "width.",
        (Question("init_scale"), Question("output_scale")),
        "studies/init_scale/figures/summary.png",
        "Loss against the scale of the initialisation at four widths, µP beside standard",
        "The scale of the initialisation was not searched there. A factor on the output is an "
        "option of the released DiT-µP, and we know of no figure for it.",
    ),
    Section(
        "search",
        "Do several hyperparameters transfer when they are searched together?",
        "Four hyperparameters of an MMDiT under µP are searched together at three widths.",
        (Question("mmdit_search", families=("mmdit",)),),
        "studies/mmdit_search/figures/importance-mup.png",
        "How much each of the four hyperparameters matters",
        "It tries 80 random points at 0.18B parameters: rate, gradient clip, weight of REPA and "
        "warm-up. They are used at 18B. The best rate is not near the edge of stability, the best "
        "clip is 1, and the warm-up hardly matters.",
    ),
    Section(
        "repa",
        "Does the weight of REPA transfer, searched with the others?",
        "These are the four hyperparameters of the paper's MMDiT. REPA aligns hidden tokens with "
        "the features of a [frozen encoder](../docs/how_to/repa.md), here the classifier of the "
        "digits. The held-out loss without the alignment decides.",
        (Question("mmdit_repa_search", families=("mmdit",)),),
        "studies/mmdit_repa_search/figures/importance-mup.png",
        "How much each of the four hyperparameters matters",
        "It searches the weight of REPA at 0.18B and uses it at 18B.",
    ),
    Section(
        "conditions",
        "Does the best rate move with batch size and training time?",
        "The learning rate of a DiT under µP is swept at three widths, for three batch sizes and "
        "for four lengths of training.",
        (Question("conditions"),),
        "studies/conditions/figures/over-batch_size-mup.png",
        "The best learning rate against the batch size, at three widths",
        "Rates are said to transfer over widths, batch sizes and training steps. Its proxies train "
        "for 200K iterations where the target trains for 2.4M (DiT), and for 5 epochs where the "
        "target trains for 30 (PixArt-α).",
    ),
    Section(
        "axes",
        "Does a small proxy speak for a target that is larger in four ways?",
        "The target is twice as wide as the widest proxy, twice as deep, has twice the batch and "
        "trains for four times the steps. `complete` has [rules for all "
        "four](../docs/concepts/depth_batch_duration.md) (arXiv 2512.22382); µP scales with the "
        "width alone.",
        tuple(Question(f"four_axes{kind}") for kind in ("", "_without_duration", "_width_alone")),
        "studies/four_axes/figures/realised.png",
        "Loss of the target against the learning rate under `complete`, and the transferred rate",
        "It scales with the width alone. Its proxies train for a twelfth of the target's "
        "iterations (DiT).",
    ),
    Section(
        "steps",
        "How many steps does µP save?",
        "A target of width 128 is trained under µP at the transferred rate, and under the standard "
        "parametrization at four rates. Steps are counted up to [equal held-out "
        "loss](../docs/evidence/convergence.md).",
        (
            Question(
                "convergence",
                PUBLISHED,
                verb="sweep",
                then=("python -m benchmarks.convergence {}",),
                record="convergence",
            ),
        ),
        "studies/convergence/figures/convergence.png",
        "Held-out loss of DiT against training steps, a line for each rate",
        "DiT-XL/2 under µP reaches in 2.4M iterations the FID that the original reaches in 7M at "
        "its default rate: 2.9 times fewer. Tuning costs 5.5 % of one training run (PixArt-α) and "
        "3 % of the experts' search (MMDiT).",
    ),
    Section(
        "frechet",
        "Is the rate that is best by loss also best by Fréchet distance?",
        "Each trial of a DiT draws 1,000 samples. Their Fréchet distance to the data is taken in "
        "the features of a small classifier.",
        (
            Question(
                "frechet",
                then=("hptransfer fit {} --metric frechet_distance",),
                record="by_metric",
            ),
        ),
        "studies/frechet/figures/frechet_distance/agreement.png",
        "The best rates by loss and by Fréchet distance at three widths",
        "It chooses rates by FID-50K. We know of no comparison with the validation loss.",
    ),
    Section(
        "averages",
        "Which moving average of the weights is best?",
        "A DiT trains at a constant rate and keeps averages of four horizons, which are shares of "
        "the steps. [Each is judged](../docs/how_to/which_ema.md) at its own best rate, by the "
        "loss and by the Fréchet distance of 1,000 samples.",
        (Question("ema_frechet"),),
        "studies/ema_frechet/figures/summary.png",
        "Loss of the weights themselves against the learning rate at three widths",
        "It judges DiT by the samples of a moving average, of one horizon.",
    ),
)
QUESTIONS = tuple(question for section in SECTIONS for question in section.questions)


def question_of(sweep: str) -> Question:
    """Return the question that a sweep file asks."""
    return next(question for question in QUESTIONS if question.sweep == sweep)


def of_cpu(question: Question) -> Sequence[Edition]:
    """List a question's editions for the CPU: one for each family."""
    return [Edition(question, question.sweep, family) for family in question.families]


def of_gpu(question: Question, sweeps: Path) -> Sequence[Edition]:
    """List a question's editions for a GPU, where there is a sweep file for them."""
    sweep = f"{question.sweep}{GPU}"
    if not (sweeps / f"{sweep}.yaml").is_file():
        return []
    return [Edition(question, sweep, family) for family in question.families]
