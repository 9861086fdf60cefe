"""Making tensors of other shapes than the model's fit it, where that makes sense."""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from d2detr.checkpoint.class_rows import match_classes, names_of_classes
from d2detr.checkpoint.load_report import LoadReport

_CLASS_HEAD = re.compile(r"(transformer\.proposals\.)?heads\.(\d+\.)?class_embed\.")
_LABELS = "denoising.label_embed."
_QUERIES = "transformer.decoder.query_embed.weight"
_PROPOSALS = "transformer.proposals."


def class_head(weights: Mapping[str, Tensor]) -> Tensor | None:
    """Return the weight (C, D) of the last decoder layer's class head, or None."""
    heads = re.compile(r"heads\.(\d+\.)?class_embed\.weight")
    found = sorted(key for key in weights if heads.fullmatch(key))
    return weights[found[-1]] if found else None


def fit_tensor(
    key: str,
    value: Tensor,
    own: Tensor,
    report: LoadReport,
    *,
    class_names: Sequence[str] | None,
    own_class_names: Sequence[str] | None,
    extra_rows: Sequence[str] = (),
    proposals_have_classes: bool = True,
) -> Tensor | None:
    """Return what to load in the place of ``own``, and report it.

    Rows of a class head go by the names of the classes, and those after the classes always carry
    over. Of queries, the first ones are taken. Rows that nothing is known of keep their
    initial value.

    Args:
        key: the model's name of the tensor.
        value: the tensor of the weights.
        own: the tensor of the model.
        report: is told what happens.
        class_names: of the weights, where known.
        own_class_names: of the model, where known.
        extra_rows: what the rows of a class head after the classes stand for.
        proposals_have_classes: whether the rows of the proposals' class head stand for classes;
            otherwise the first one does for any object, and carries over.

    Returns:
        A tensor of the shape of ``own``, or None to keep ``own``.
    """
    if value.shape == own.shape:
        differ = class_names and own_class_names and list(class_names) != list(own_class_names)
        has_classes = _CLASS_HEAD.match(key) or key.startswith(_LABELS)
        if differ and has_classes and (proposals_have_classes or not key.startswith(_PROPOSALS)):
            report.partial[key] = "all rows in their order, although the classes' names differ"
        return value
    if value.shape[1:] == own.shape[1:] and value.dim():
        names = class_names, own_class_names
        if key.startswith(_PROPOSALS) and not proposals_have_classes:
            return _fit_first(key, value, own, report, "rows")
        if _CLASS_HEAD.match(key):
            return _fit_classes(key, value, own, report, *names, extra_rows)
        if key.startswith(_LABELS):
            return _fit_classes(key, value, own, report, *names, ("no label",))
        if key == _QUERIES:
            return _fit_first(key, value, own, report, "queries")
    report.keep(f"{tuple(value.shape)} in the weights, {tuple(own.shape)} here", key)
    return None


def _fit_first(key: str, value: Tensor, own: Tensor, report: LoadReport, what: str) -> Tensor:
    count = min(len(value), len(own))
    report.partial[key] = f"the first {count} of {len(value)} {what} for {len(own)}"
    return torch.cat([value[:count].to(own), own[count:]])


def _fit_classes(
    key: str,
    value: Tensor,
    own: Tensor,
    report: LoadReport,
    class_names: Sequence[str] | None,
    own_class_names: Sequence[str] | None,
    extra_rows: Sequence[str],
) -> Tensor:
    extra = len(extra_rows)
    count = len(own) - extra
    given = names_of_classes(len(value) - extra, class_names)
    wanted = names_of_classes(count, own_class_names)
    rows = match_classes(wanted, given) if given and wanted else {}
    fitted = own.detach().clone()
    fitted[count:] = value[len(value) - extra :]
    for row, given_row in rows.items():
        fitted[row] = value[given_row]
    what = " and ".join([f"{len(rows)} of {count} classes", *extra_rows])
    if not (given and wanted):
        unknown = "the weights" if wanted else "the model" if given else "either side"
        carried = " and ".join(extra_rows) or "no class"
        what = f"{carried} alone, as the names of the classes of {unknown} are unknown"
    report.partial[key] = what
    if wanted:
        report.carried_classes = [name for row in rows if (name := wanted[row])]
    names = wanted or [f"number {i}" for i in range(count)]
    report.new_classes = [name for i, name in enumerate(names) if name and i not in rows]
    return fitted
