"""Any overrides and any file compose to a usable sweep, or are refused in one sentence with code 2.

Cases are drawn without a random seed (`derandomize`), so that every run tries the same ones, and
hypothesis prints the smallest that fails.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hptransfer.cli import main
from hptransfer.config.compose.compose import (
    compose_file,
    resolved_yaml,
    shipped_folder,
    sweep_config,
)
from hptransfer.config.compose.schema import GROUPS, OPEN, SECTIONS, all_keys
from hptransfer.config.hyperparameters import HYPERPARAMETERS

FEW = settings(max_examples=200, deadline=None, derandomize=True, database=None)
MANY = settings(max_examples=2_000, deadline=None, derandomize=True, database=None)
INTERNAL = (
    "Hydra",
    "OmegaConf",
    "Traceback",
    "object_type",
    "full_key",
    "Error merging",
    "Config ",
)
LONGEST_MESSAGE = 3_000  # characters: the list of all models is 500

CHOICES = {
    group: [path.stem for path in (shipped_folder("conf") / group).glob("*.yaml")]
    for group in GROUPS
}
TARGETS = ("model.width", "model.depth", "model", "seed", "budget.steps", "optimizer.lr", "foo")
KEYS = st.one_of(
    st.sampled_from(all_keys()),
    st.sampled_from(sorted(HYPERPARAMETERS)).map(lambda name: f"search.{name}"),
    st.tuples(
        st.sampled_from(sorted(HYPERPARAMETERS)), st.sampled_from(["low", "high", "step"])
    ).map(lambda pair: f"search.{pair[0]}.{pair[1]}"),
    st.sampled_from(TARGETS).map(lambda key: f"sweep.target.{key}"),
    st.sampled_from(
        ["executor.resources.TPU", "modle.width", "model.widht", "hydra.run.dir", "a.b"]
    ),
    st.sampled_from(["", ".", "model.", "model@x", "x" * 300, "µ", "search.", "model.width.x"]),
)
ODD = [
    *("", "null", "nan", "inf", "-inf", "-0.0", "1e308", "1e-308", "1e999", "-1", "0", "true"),
    *("'", '"', "''", "'a", "[", "]", "{", "}", "[]", "{}", "[[1]]", "{a: 1}", "{1: 2}", "a,b"),
    *("[1,[2]]", "[1,null]", "{low: -9, high: -3}", "{low: nan, high: 1}", "{low: 0, high: 1e9}"),
    *("{model: {width: 96}}", "{model: null}", "{seed: {a: b}}", "${oc.env:HOME}", "${seed}", "${"),
    *("'${oc.env:HOME}'", "???", "!!python/object/apply:os.system [ls]", "é漢", "a b", "a:b", "\\"),
    *("\x00", "\x1b[31m", "\udcff", "a\nb", "9" * 30, "9" * 4400, "x" * 3000, "x" * 30_000, "a=b"),
    *(
        "range(1,9)",
        "glob(*)",
        "choice(1,2)",
        "int(2.5)",
        "[" * 200,
        "../x",
        "/etc/passwd",
        "~",
        "%s",
    ),
    *(
        "https://u:p@h/x",
        "env:HOME",
        "os:system",
        "2020-01-01",
        "0x10",
        "1_000",
        "- 1",
        "#",
        "*a",
        "&a",
    ),
]
VALUES = st.one_of(
    st.sampled_from(ODD),
    st.integers(-3, 400).map(str),
    st.integers(-(2**70), 2**70).map(str),
    st.floats().map(str),
    st.lists(st.integers(-2, 300), max_size=4).map(str),
    st.text(max_size=12),
)
SOUND = st.sampled_from([(group, choice) for group, names in CHOICES.items() for choice in names])
PAIRS = st.one_of(
    st.tuples(KEYS, VALUES).map("=".join),
    SOUND.map("=".join),
    st.tuples(st.sampled_from((*GROUPS, *SECTIONS, *OPEN)), VALUES).map("=".join),
    st.tuples(st.sampled_from("+~"), KEYS).map("".join),
    st.tuples(st.sampled_from(["+", "++", "~"]), KEYS, st.just("="), VALUES).map("".join),
    st.text(max_size=12).filter(lambda text: not text.startswith("-")),
)


def answer(words: list[str]) -> tuple[int, str, str]:
    """Run a command in this process; return its exit code, output and errors."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main.main(words)
        except SystemExit as ended:  # argparse: an override that reads as an option
            code = int(ended.code or 0)
    return code, out.getvalue(), err.getvalue()


def require_one_sentence(errors: str) -> None:
    """Check that a refusal is a single readable line that names nothing internal."""
    assert errors.startswith("hptransfer: ") and errors.endswith("\n"), errors
    message = errors.removeprefix("hptransfer: ").rstrip("\n")
    assert "\n" not in message and 20 < len(message) < LONGEST_MESSAGE, message
    assert message.isprintable() or "µ" in message, message
    assert not [word for word in INTERNAL if word in message], message


def require_usable_or_refused(sweep: str, overrides: list[str]) -> None:
    """Check both ends of the contract for `hptransfer sweep`: a sound config, or exit code 2."""
    code, printed, errors = answer(["sweep", sweep, "--print-config", "--", *overrides])
    if code:
        assert code == 2, errors
        require_one_sentence(errors)
        return
    again = yaml.safe_load(printed)
    home = str(Path.home())  # nothing is looked up in the environment
    assert home == "/" or home not in printed or home in "".join(overrides)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "sweep.yaml"
        path.write_text(printed, encoding="utf-8")
        composed = compose_file(path, [])
        assert resolved_yaml(composed, name=again["name"]) == printed
        assert sweep_config(composed).name == again["name"]


def require_usable_file(content: bytes) -> None:
    """Check the same for a sweep file of these bytes."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "mine.yaml"
        path.write_bytes(content)
        require_usable_or_refused(str(path), [])


OVERRIDES = st.lists(PAIRS, min_size=1, max_size=3)


@FEW
@given(OVERRIDES)
@example(["verdict=null"])  # each of these once ended in a traceback
@example(["sweep.design=null"])
@example(["sweep.widths=[1,[2]]"])
@example(["~model"])
@example(["model=[1,2]"])
@example(["question=${missing}"])
@example(["x" * 30_000 + "=1"])
def test_any_overrides_make_a_sweep_or_one_sentence(overrides: list[str]) -> None:
    require_usable_or_refused("quickstart", overrides)


@pytest.mark.slow
@MANY
@given(OVERRIDES)
def test_ten_times_as_many_overrides(overrides: list[str]) -> None:
    require_usable_or_refused("quickstart", overrides)


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(0, 200),
    st.floats(),
    st.sampled_from(ODD).filter(lambda text: len(text) < 4000),
    st.dates(),
    st.binary(max_size=4),
)
SECTION_KEYS = sorted({key.split(".")[-1] for key in all_keys()} | {"lr", "low", "high", "step"})
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(SECTION_KEYS), LEAVES), inner, max_size=3),
    ),
    max_leaves=8,
)
SOUND_FILE = {
    "sweep": {"widths": [24, 48]},
    "search": {"lr": {"low": -9, "high": -3}},
}
TOPS = st.sampled_from(
    [*{key.split(".")[0] for key in all_keys()}, "defaults", "hydra", "modle", "_target_"]
)
DOCUMENTS = st.dictionaries(TOPS, TREES, max_size=2).map(
    lambda drawn: yaml.dump({**SOUND_FILE, **drawn}, allow_unicode=True).encode(
        "utf-8", "surrogatepass"
    )
)
BYTES = st.one_of(
    DOCUMENTS,
    DOCUMENTS,
    st.binary(max_size=60),
    st.text("{}[]:-&*!? \n\tab'\"#|>%@`", max_size=30).map(str.encode),
)


@FEW
@given(BYTES)
@example(b"defaults: []\n")  # this once ended in a traceback
def test_any_file_is_a_sweep_or_one_sentence(content: bytes) -> None:
    require_usable_file(content)


@pytest.mark.slow
@MANY
@given(BYTES)
def test_ten_times_as_many_files(content: bytes) -> None:
    require_usable_file(content)
