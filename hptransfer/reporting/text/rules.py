"""How a model's inits and factors go with width, as text for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hptransfer.analysis.answer.text import decay_lines
from hptransfer.config.choices import arm_name
from hptransfer.system.text import count_text, text_table

# Head of a column to the factor that it shows.
FACTOR_COLUMNS = {"lr": "lr", "decay": "weight_decay", "eps": "eps", "forward": "forward"}


def rules_text(table: Mapping[str, Any], parameters: Sequence[Mapping[str, Any]]) -> str:
    """Return tables of inits and factors: a line per role, and one for each of `parameters`."""
    depth = f", depth ratio {table['depth_mult']:g}" if table["depth_mult"] != 1 else ""
    complete = bool(table["printed"])
    if complete:
        depth = (
            f", r = {table['depth_mult']:g}, b = {table['batch_mult']:g}, "
            f"d = {table['duration_mult']:g}"
        )
    fault = f" broken by {table['broken']}" if table["broken"] != "none" else ""
    title = (
        f"{table['family']} width {table['width']}, base {table['base_width']}: "
        f"m = {table['width_mult']:g}{depth}; {arm_name(table['parametrization'])}{fault}; "
        f"{table['parameters']:,} parameters"
    )
    published = "published" if complete else "vanilla"
    columns = ["role", "tensors", "params", "init std", "init", *FACTOR_COLUMNS, published]
    cells = [_role_cells(role, entry) for role, entry in table["roles"].items()]
    lines = [text_table(title, columns, cells), *_of_optimizer(table), *_differences(table)]
    timescales = {role: entry["decay_timescale"] for role, entry in table["roles"].items()}
    lines += decay_lines(timescales)
    if complete:
        lines += _printed_lines(table)
    if parameters:
        columns = ["parameter", "shape", "role", "init std", *FACTOR_COLUMNS]
        columns += [] if table["optimizer"] == "adamw" else ["by", "scale"]
        cells = [_parameter_cells(p)[: len(columns)] for p in parameters]
        lines.append(text_table("every parameter", columns, cells))
    return "\n".join(lines)


def _role_cells(role: str, entry: Mapping[str, Any]) -> list[str]:
    exponent = entry["exponents"]["init_std"]
    return [
        role,
        str(entry["tensors"]),
        count_text(entry["parameters"]),
        _range(entry["init_std"], "{:.2g}".format),
        "-" if exponent is None else _range(exponent, _power),
        *(_range(entry[f"{name}_factor"]) for name in FACTOR_COLUMNS.values()),
        " ".join(_power(exponent) for exponent in entry["vanilla_exponents"].values()),
    ]


def _of_optimizer(table: Mapping[str, Any]) -> list[str]:
    """Return lines on who updates what; none where AdamW updates all."""
    if table["optimizer"] == "adamw":
        return []
    roles: dict[str, list[str]] = {}
    for role, entry in table["roles"].items():
        for name in entry["optimizers"]:
            roles.setdefault(name, []).append(role)
    lines = [f"Updated by {name}: {', '.join(own)}." for name, own in roles.items()]
    if "muon" in roles:
        lines += [
            "The base rate of muon is optimizer.lr, which an update's scale multiplies (--all: by",
            "muon (3) are three matrices, one under another); that of adamw is optimizer.adam_lr.",
        ]
    return lines


def _parameter_cells(row: Mapping[str, Any]) -> list[str]:
    shape = "x".join(map(str, row["shape"]))
    factors = [f"{row[f'{name}_factor']:.4g}" for name in FACTOR_COLUMNS.values()]
    count, scale = row.get("matrices", 1), row.get("update_scale")
    by = row["optimizer"] + (f" ({count})" if count > 1 else "")
    last = [by, "" if scale is None else f"{scale:.4g}"]
    return [row["parameter"], shape, row["role"], f"{row['init_std']:.4g}", *factors, *last]


def _differences(table: Mapping[str, Any]) -> list[str]:
    """Return lines on which roles' rules differ from those of a vanilla Transformer."""
    columns = ", ".join(["init", *FACTOR_COLUMNS])
    lines = [
        f"The last column, vanilla, gives {columns} of a plain Transformer",
        "under µP (arXiv 2203.03466, Table 8); m is width / base width.",
    ]
    if table["printed"]:
        lines = [
            f"The last column gives the powers of m that {columns} have in Table 1 of",
            "arXiv 2512.22382 (Complete(d)P), where m is width / base width.",
        ]
    if table["optimizer"] == "muon":
        lines.append("Those of hidden are of muon, by Condition 1 of arXiv 2310.17813.")
    if table["printed"] and table["coincide"]:
        return [*lines, "In every role the powers of m are those of the table."]
    if table["depth_mult"] != 1:
        lines.append(
            "Only the dependence on the width is compared; the values also hold the factors of "
            "the depth."
        )
    if table["coincide"]:
        return [*lines, "In every role the rules are those of the plain Transformer."]
    return lines + [
        f"The role {role} differs in its {name.replace('_', ' ')}: "
        f"{_range(entry['exponents'][name], _power)} instead of "
        f"{_power(entry['vanilla_exponents'][name])}."
        for role, entry in table["roles"].items()
        for name in entry["differs"]
    ]


def _printed_lines(table: Mapping[str, Any]) -> list[str]:
    """Return the factors beside Complete(d)P's Table 1, in its form, and the resulting betas."""
    mixed = table["momentum"] is not None  # some rows are of Muon, and the table is of AdamW
    columns = ["role", "where", "tensors", *(["by"] if mixed else [])]
    for name in ("lr", "decay", "eps"):
        columns += [name, "table"]
    cells = []
    for row in table["printed"]:
        cell = [row["role"], "blocks" if row["in_blocks"] else "outside", str(row["tensors"])]
        cell += [row["optimizer"]] if mixed else []
        for name in row["ours"]:
            published = row["published"]
            cell += [_range(row["ours"][name]), _range(published[name]) if published else "-"]
        cells.append(cell)
    betas = " and ".join(f"{beta:.6g}" for beta in table["betas"])
    lines = [
        text_table(
            "beside Table 1 of arXiv 2512.22382, with the readout's 1/m in its weight",
            columns,
            cells,
        ),
        f"A step is κ = {table['clock_ratio']:.4g} times as much of the run as at the base values: "
        f"rates and decays have √κ, epsilon 1/√κ, and 1 - beta κ, so the betas are {betas}.",
    ]
    if mixed:
        lines.append(
            "The table is of AdamW. By our choice muon's rates have √κ too, a step takes κ times "
            f"the decay, and 1 - momentum has κ, so the momentum is {table['momentum']:.6g}."
        )
    return lines


def _power(exponent: float) -> str:
    """Return a power of m; what was measured within 0.03 of a half is that half."""
    half = round(2 * exponent) / 2
    short = {0.0: "1", 1.0: "m", -1.0: "1/m", -0.5: "m^-½"}
    near = half in short and abs(exponent - half) < 0.03
    return short[half] if near else f"m^{exponent:.2f}"


def _range(spread: Mapping[str, float], form: Callable[[float], str] = "{:.3g}".format) -> str:
    """Return the one value of a role, or the lowest and highest."""
    ends = [form(spread[end]) for end in ("low", "high")]
    return ends[0] if ends[0] == ends[1] else "–".join(ends)
