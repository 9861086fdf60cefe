"""The report on datasets: what is in each of them and what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from d2detr.doctor.annotation_table import AnnotationTable
from d2detr.doctor.dataset_content import Split
from d2detr.doctor.findings import Finding


@dataclass(frozen=True)
class Report:
    """What is in datasets and what is wrong with them.

    Attributes:
        splits: by "train", "val" and "test", or by the name of a registered dataset.
        findings: errors first.
        skipped: what was not looked at, one sentence each.
        division: where the splits of a folder come from, in words.
        inputs: files and folders that the datasets were read from.
    """

    splits: dict[str, Split]
    findings: list[Finding]
    skipped: list[str]
    division: str | None = None
    inputs: tuple[str, ...] = ()

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "error"]

    @property
    def warnings(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "warning"]

    def as_dict(self) -> dict[str, Any]:
        """Return the report for machines."""
        return {
            "splits": {name: _counts(split.table) for name, split in self.splits.items()},
            "division": self.division,
            "findings": [
                {
                    "code": finding.code,
                    "severity": finding.severity,
                    "split": finding.split,
                    "count": finding.count,
                    "message": finding.message,
                    "examples": finding.examples,
                }
                for finding in self.findings
            ],
            "skipped": self.skipped,
        }

    def __str__(self) -> str:
        counts = {name: _counts(split.table) for name, split in self.splits.items()}
        classes = list(
            dict.fromkeys(name for count in counts.values() for name in count["classes"])
        )
        rows = [(key, *(x[key] for x in counts.values())) for key in ("images", "empty images")]
        rows += [(name, *(x["classes"].get(name, 0) for x in counts.values())) for name in classes]
        rows.append(("all objects", *(sum(x["classes"].values()) for x in counts.values())))
        parts = [tabulate(rows, headers=("", *counts))]
        if self.division:
            parts.append(f"The splits are those of a fine-tuning: {self.division}.")
        for finding in self.findings:
            more = ", ..." if finding.count > len(finding.examples) else ""
            parts.append(
                f"{finding.severity.upper()} {finding.split}: {finding.count} {finding.message}.\n"
                f"    {', '.join(finding.examples)}{more}"
            )
        if self.skipped:
            parts.append("\n".join(f"Not looked at: {words}." for words in self.skipped))
        parts.append(f"{len(self.errors)} kinds of errors, {len(self.warnings)} kinds of warnings.")
        return "\n\n".join(parts)


def _counts(table: AnnotationTable) -> dict[str, Any]:
    classes: dict[str, int] = {}
    for name, count in zip(table.class_names, table.objects_per_class.tolist(), strict=True):
        classes[str(name)] = classes.get(str(name), 0) + count
    return {
        "images": len(table.file_names),
        "empty images": int((table.objects_per_image == 0).sum()),
        "annotations": len(table.boxes),
        "classes": classes,
    }
