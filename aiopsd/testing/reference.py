"""Writes docs/reference/{configuration,metrics}.md from the code: `python -m aiopsd.testing.reference`.

A test holds the files and the code together.
"""

import ast
import inspect
import io
import re
import sys
import tokenize
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import Histogram

from aiopsd import config, plugins
from aiopsd.config import Duration, Section
from aiopsd.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2] / "docs" / "reference"
HEAD = "<!-- made by `python -m aiopsd.testing.reference`; edit the code, not this file -->\n\n"


def comments(cls: type) -> dict[str, str]:
    """Field -> the comment behind it (or its continuation lines), from the source of the class and of its bases."""
    found = {k: v for base in cls.__bases__ if issubclass(base, Section) for k, v in comments(base).items()}
    source = inspect.getsource(cls)
    by_line = {
        token.start[0]: token.string.lstrip("# ").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    for node in ast.parse(source).body[0].body:  # type: ignore[attr-defined]  # a class
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            found[node.target.id] = " ".join(by_line[n] for n in lines if n in by_line)
    return found


def written(value: object) -> str:
    """A default as one would write it in YAML."""
    if value is msgspec.NODEFAULT:
        return "*required*"
    if isinstance(value, Duration):
        return duration(float(value))
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, (tuple, dict, list)) and not value:
        return "empty"
    if isinstance(value, (tuple, list)):
        return "`[" + ", ".join(str(v) for v in value) + "]`"
    return f"`{value}`" if value != "" else '`""`'


def duration(seconds: float) -> str:
    """`5m` for 300."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("m", 60.0), ("s", 1.0)):
        if seconds >= size and seconds % size == 0:
            return f"`{int(seconds / size)}{unit}`"
    return f"`{seconds * 1000:g}ms`" if seconds else "`0`"


def type_name(kind: Any) -> str:
    """A field's type in words."""
    text = kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)
    for old, new in (
        ("typing.", ""), ("NoneType", "unset"), ("None", "unset"),
        ("tuple[", "list["), (", ...]", "]"), ("Duration", "duration"), ("Secret", "secret"), ("Literal", "one of "),
        ("ForwardRef('RouteConfig')", "RouteConfig"), ("Optional", ""),
    ):  # fmt: skip
        text = text.replace(old, new)
    text = re.sub(r"\baiopsd\.config\.\w+\.", "", text)
    text = re.sub(r"Annotated\[(\w+), msgspec\.Meta\(([^)]*)\)\]", _bounded, text)
    text = re.sub(r"^\[(.*)\]$", r"\1 | unset", text)  # typing's way to say that of what is annotated
    return re.sub(r"\bstr\b", "text", text).replace("|", "\\|")


def _bounded(kind: re.Match[str]) -> str:
    """`float > 0, < 1`."""
    bounds = kind.group(2)
    for old, new in (("ge=", ">= "), ("gt=", "> "), ("le=", "<= "), ("lt=", "< ")):
        bounds = bounds.replace(old, new)
    return f"{kind.group(1)} {bounds}"


def section(cls: type[msgspec.Struct], title: str) -> list[str]:
    """One table."""
    lines = [f"## {title}", ""]
    doc = inspect.getdoc(cls) or ""
    if cls.__doc__ and not doc.startswith("Base of every part"):
        lines += [doc.split("\n\n")[0].replace("\n", " "), ""]
    said = comments(cls)
    lines += ["| key | type | default | |", "|---|---|---|---|"]
    for field in msgspec.structs.fields(cls):
        default = field.default
        if default is msgspec.NODEFAULT and field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        shown = "see below" if isinstance(default, Section) else written(default)
        about = said.get(field.name, "").replace("|", "\\|")
        lines.append(f"| `{field.encode_name}` | {type_name(field.type)} | {shown} | {about} |")
    return [*lines, ""]


def configuration() -> str:
    """docs/reference/configuration.md."""
    lines = [
        "# Configuration",
        "",
        "One YAML file, or a folder whose `*.yaml` fragments are merged. Unknown keys are errors that name the key.",
        "Durations are written `30s`, `5m`, `1h30m`. A secret is a text, `{file: PATH}` or `{env: NAME}`.",
        "`aiopsd check-config -c FILE` checks; SIGHUP or `POST /-/reload` reloads, and a bad file keeps the old one.",
        "",
    ]
    lines += section(config.Config, "The file")
    names: list[tuple[str, type[msgspec.Struct]]] = [
        ("http", config.HttpConfig), ("log", config.LogConfig), ("journal", config.JournalConfig),
        ("metric_log", config.MetricLogConfig), ("snapshots", config.SnapshotConfig), ("store", config.StoreConfig),
        ("sources[]", config.SourceConfig), ("services", config.ServicesConfig),
        ("services.rules[]", config.ServiceRule),
        ("topology", config.TopologyConfig), ("topology.metrics[]", config.EdgeRule),
        ("detect", config.DetectConfig),
        ("detect.policies[]", config.PolicyRule), ("detect.maintenance[]", config.MaintenanceRule),
        ("detect.signals[]", config.SignalRule), ("detect.thresholds[]", config.ThresholdRule),
        ("detect.online[]", config.OnlineRule), ("detect.drift", config.DriftConfig),
        ("detect.drift.models[]", config.ModelRule), ("correlate", config.CorrelateConfig),
        ("retraining", config.RetrainingConfig), ("route", config.RouteConfig),
        ("inhibit_rules[]", config.InhibitRule), ("time_intervals[]", config.TimeIntervals),
        ("time_intervals[].time_intervals[]", config.TimeInterval),
        ("time_intervals[].time_intervals[].times[]", config.TimeRange), ("delivery", config.DeliveryConfig),
        ("rules.yaml of a rule pack", config.RulePack), ("rules.yaml: alerts[]", config.AlertFamily),
        ("rules.yaml: enrich[]", config.Enrichment), ("rules.yaml: edges[]", config.EdgeRule),
    ]  # fmt: skip
    for title, cls in names:
        lines += section(cls, f"`{title}`")
    for kind, key in (
        ("streams", "sources[].{}"),
        ("notifiers", "receivers[].{}_configs[]"),
        ("trainers", "retraining.trainers[].{}"),
    ):
        for name in plugins.names(kind):
            options: type[msgspec.Struct] | None = getattr(plugins.load(kind, name), "Config", None)
            if options is not None:
                lines += section(options, f"`{key.format(name)}`")
                for field in msgspec.structs.fields(options):
                    if isinstance(field.default, Section):
                        lines += section(type(field.default), f"`{key.format(name)}.{field.encode_name}`")
    return HEAD + "\n".join(lines).rstrip() + "\n"


def metrics() -> str:
    """docs/reference/metrics.md."""
    lines = [
        "# Metrics",
        "",
        "What `/metrics` exports. Counters end in `_total`; histograms have `_bucket`, `_sum` and `_count`.",
        "",
        "| metric | type | labels | |",
        "|---|---|---|---|",
    ]
    for metric in vars(Metrics()).values():
        if not hasattr(metric, "_documentation"):
            continue
        name, kind = metric._name, metric._type
        shown = f"{name}_total" if kind == "counter" else name
        labels = ", ".join(f"`{label}`" for label in metric._labelnames) or "-"
        kind = "histogram" if isinstance(metric, Histogram) else kind
        lines.append(f"| `{shown}` | {kind} | {labels} | {metric._documentation} |")
    return HEAD + "\n".join(lines) + "\n"


PAGES = {"configuration.md": configuration, "metrics.md": metrics}


def main() -> int:
    """Write the pages."""
    for name, make in PAGES.items():
        (ROOT / name).write_text(make(), encoding="utf-8")
        print(f"docs/reference/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
