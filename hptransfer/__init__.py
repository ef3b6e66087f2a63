"""Hyperparameter transfer for diffusion transformers: sweep small, train large once.

`fit` answers where the optimum of a hyperparameter lies at every width, from a DataFrame of runs or
from a results folder; `load_results` opens such a folder, `sweep` fills one, and `plot` draws what
it holds. A trainer of your own is told a `Trial` and may `report` its losses. `coordinate_check`
says whether a parametrization is µP. `build_model` and `param_groups` put a trial's parametrization
into any torch training loop, `load_trial` reads a config such as an emitted target.yaml, and
`load_weights` a model's weights, published or our own. The module `hptransfer.mup` has µP for a
model and a loop of your own, without a config.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hptransfer import mup as mup
    from hptransfer.analysis.answer.answer import Answer
    from hptransfer.analysis.public import Results, fit, load_results
    from hptransfer.config.compose.compose import load_trial
    from hptransfer.models.parametrization.rules import build_model, param_groups
    from hptransfer.models.weights import load_weights
    from hptransfer.reporting.public import plot
    from hptransfer.sweeping.public import coordinate_check, sweep
    from hptransfer.training.external.trial import Trial, report

# The module of each public name; it is imported when the name is first used, since torch, pandas
# and matplotlib take seconds.
_MODULES = {
    "Answer": "hptransfer.analysis.answer.answer",
    "Results": "hptransfer.analysis.public",
    "Trial": "hptransfer.training.external.trial",
    "build_model": "hptransfer.models.parametrization.rules",
    "coordinate_check": "hptransfer.sweeping.public",
    "fit": "hptransfer.analysis.public",
    "load_results": "hptransfer.analysis.public",
    "load_trial": "hptransfer.config.compose.compose",
    "load_weights": "hptransfer.models.weights",
    "param_groups": "hptransfer.models.parametrization.rules",
    "plot": "hptransfer.reporting.public",
    "report": "hptransfer.training.external.trial",
    "sweep": "hptransfer.sweeping.public",
}
__all__ = [
    "Answer",
    "Results",
    "Trial",
    "build_model",
    "coordinate_check",
    "fit",
    "load_results",
    "load_trial",
    "load_weights",
    "param_groups",
    "plot",
    "report",
    "sweep",
]


def __getattr__(name: str) -> Any:
    import importlib

    if name == "__version__":
        from hptransfer.system.version import package_version

        return package_version()
    if name == "mup":
        return importlib.import_module("hptransfer.mup")
    if name not in _MODULES:
        raise AttributeError(f"module 'hptransfer' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__", "mup"]
