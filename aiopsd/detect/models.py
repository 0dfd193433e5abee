"""Models by name: river's, the memories that are shipped, and those of third parties, all behind one protocol.

What enters is a name and parameters from the configuration; what leaves is a factory of `protocols.Model`s. A river
model's own score is never used as it is: several saturate at exactly 1.0, so that a 9-sigma point looks like a 90-sigma
one. What is asked for is the raw statistic behind it: the residual of a forecast, a distance in deviations, the mass of
a tree.

Known faults of river 0.26 that are survived here: StandardAbsoluteDeviation raises on a score before its first learn
and GaussianScorer with a window on a rolling variance below zero (the caller counts what a model raises),
PredictiveAnomalyDetection learns while it scores, ThresholdFilter without protection never trains what is inside,
models without a seed are not repeatable.
"""

import inspect
import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec
import river
from river.compose import Pipeline

from aiopsd import plugins
from aiopsd.config import plugin_config
from aiopsd.detect.codec import Unencodable, decode, encode
from aiopsd.detect.joint import Joint
from aiopsd.detect.shapes import Day, Shape
from aiopsd.errors import ConfigError
from aiopsd.protocols import Expected, Model

SEED = 1  # of models that take one and were given none
SHIPPED: dict[str, Any] = {"aiopsd.Shape": Shape, "aiopsd.Day": Day, "aiopsd.Joint": Joint}
VERBS = ("statistic", "learn", "state", "load")
TROUBLE = (ArithmeticError, TypeError, ValueError, LookupError, AttributeError, AssertionError)  # of foreign code

Factory = Callable[[], Model]


def find(name: str, params: Mapping[str, Any], path: str = "$", *, vector: bool = False) -> Factory:
    """What makes a new model of that name: a shipped one, one registered as `aiopsd.detectors`, or a river class.

    One is made and put through a snapshot. `vector`: it will get features by name instead of one series' samples.

    Raises:
        ConfigError: there is none, it is none, it does not take these parameters, or its state cannot be kept as data;
            names the key.
    """
    kind = SHIPPED.get(name)
    if kind is None and name in plugins.names("detectors"):
        kind = plugins.load("detectors", name, f"{path}.model")
        missing = [verb for verb in VERBS if not callable(getattr(kind, verb, None))]
        if not isinstance(getattr(kind, "Config", None), type):
            missing.append("Config")
        if missing:
            raise ConfigError(f"`{name}` is no model: it has no `{'`, `'.join(missing)}`", f"{path}.model")
    if kind is None:
        factory: Factory = partial(_river, name, params, path)
    else:
        factory = partial(kind, plugin_config(kind.Config, dict(params), f"{path}.params"))
    _try_out(name, factory, path, vector)
    return factory


def _try_out(name: str, factory: Factory, path: str, vector: bool) -> None:
    try:
        model = factory()
    except ConfigError:
        raise
    except Exception as e:  # a constructor of foreign code says by whatever it raises that it does not want these
        raise ConfigError(f"`{name}` does not take these parameters: {e}", f"{path}.params") from None
    if vector and isinstance(model, River) and not model.takes_vectors:
        raise ConfigError(f"`{name}` models one value: it takes no `features`", f"{path}.model")
    misused = 0  # learnings that failed by what it is, or was given, and not by the numbers
    for i in range(3):
        x = {"a": 0.5 * i, "b": 1.0 - i} if vector else {"x": float(i)}
        try:
            model.learn(60.0 * i, x)
        except TROUBLE as e:
            if vector and not isinstance(model, River):
                raise ConfigError(f"`{name}` takes no `features`: {type(e).__name__}: {e}", f"{path}.model") from None
            misused += isinstance(e, (TypeError, AttributeError))
            if misused == 3:
                raise ConfigError(f"`{name}` cannot learn as it is configured: {e}", f"{path}.params") from None
    try:
        state = msgspec.msgpack.decode(msgspec.msgpack.encode(model.state()), strict=False)
        factory().load(state)
    except (*TROUBLE, NotImplementedError) as e:
        raise ConfigError(f"the state of `{name}` cannot be kept in a snapshot: {e}", f"{path}.model") from None


# --------------------------------------------------------------------------- river


def make(name: str, params: Mapping[str, Any], path: str = "$") -> Any:
    """The river object of that name, e.g. `anomaly.HalfSpaceTrees`; nested models are `{model: ..., params: {...}}`.

    `compose.Pipeline` takes its parts as `steps`.

    Raises:
        ConfigError: river has no such class, or does not take these parameters.
    """
    found: Any = river
    try:
        parts = name.split(".")
        for i, part in enumerate(parts):
            if not hasattr(found, part) and i == 0:
                found = __import__(f"river.{part}", fromlist=[part])
            else:
                found = getattr(found, part)
    except (ImportError, AttributeError):
        known = ", ".join(sorted([*SHIPPED, *plugins.names("detectors")]))
        raise ConfigError(f"river has no `{name}` (known beside river's: {known})", f"{path}.model") from None
    if not inspect.isclass(found) or not found.__module__.startswith("river."):
        raise ConfigError(f"`{name}` is not a class of river", f"{path}.model")

    def nested(value: Any, where: str) -> Any:
        if isinstance(value, Mapping) and "model" in value:
            return make(str(value["model"]), value.get("params", {}), where)
        if isinstance(value, list):
            return [nested(v, f"{where}[{i}]") for i, v in enumerate(value)]
        return value

    given = {k: nested(v, f"{path}.params.{k}") for k, v in params.items()}
    try:
        if name == "compose.Pipeline":
            return found(*given.pop("steps", ()), **given)
        if "seed" in inspect.signature(found).parameters:
            given.setdefault("seed", SEED)
        made = found(**given)
    except (TypeError, ValueError) as e:
        raise ConfigError(f"`{name}` does not take these parameters: {e}", f"{path}.params") from None
    _seed(made)
    return made


def _river(name: str, params: Mapping[str, Any], path: str) -> Model:
    return River(make(name, params, path))


def _seed(part: Any, depth: int = 4) -> None:
    """Give every generator inside a repeatable beginning: some models make parts of theirs without a seed."""
    if isinstance(part, random.Random):
        part.seed(SEED)
    elif depth and hasattr(part, "__dict__"):
        for inner in vars(part).values():
            _seed(inner, depth - 1)


class River:
    """A river detector, forecaster, regressor or pipeline as a `protocols.Model`.

    A regressor predicts the value from the lags; a forecaster from what it learned; a detector sees value and lags, or
    all features of a vector.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    @property
    def takes_vectors(self) -> bool:
        """It scores features by name, and none of them is special."""
        return hasattr(_last(self.model), "score_one") and not _of_one_value(_last(self.model))

    def statistic(self, ts: float, x: Mapping[str, float]) -> tuple[float | None, Expected | None]:
        """As `protocols.Model`; of river's raw statistics none saturates."""
        return _statistic(self.model, dict(x))

    def learn(self, ts: float, x: Mapping[str, float]) -> None:
        """As `protocols.Model`."""
        _learn(self.model, dict(x))

    def state(self) -> Any:
        """As `protocols.Model`."""
        try:
            return encode(self.model)
        except Unencodable as e:
            raise ValueError(str(e)) from None

    def load(self, state: Any) -> None:
        """As `protocols.Model`."""
        self.model = decode(state)


def _last(model: Any) -> Any:
    """The step that decides: of a pipeline the last (a pipeline itself answers to every verb)."""
    return list(model.steps.values())[-1] if isinstance(model, Pipeline) else model


def _of_one_value(kind: Any) -> bool:
    return any(hasattr(kind, a) for a in ("gaussian", "sub_stat", "predictive_model"))


def _lags(x: Mapping[str, float]) -> dict[str, float]:
    """What a regressor may know: not the value that it shall predict."""
    return {name: v for name, v in x.items() if name != "x"}


def _statistic(model: Any, x: dict[str, float]) -> tuple[float | None, Expected | None]:
    kind = _last(model)
    inner = getattr(kind, "anomaly_detector", None)
    if inner is not None and kind is model:  # a filter only compares with a threshold; ours is elsewhere
        return _statistic(inner, x)
    predictor = getattr(kind, "predictive_model", None)
    if predictor is not None:
        return _statistic(predictor, x)
    if hasattr(kind, "score_one") and not _of_one_value(kind):
        return float(model.score_one(x)), None
    y = x["x"]
    if hasattr(kind, "forecast"):
        expected = float(model.forecast(1)[0])
        return abs(y - expected), Expected(value=expected)
    gaussian = getattr(kind, "gaussian", None)
    if gaussian is not None:
        if gaussian.n_samples < 2:
            return 0.0, None
        return abs(y - float(gaussian.mu)) / max(float(gaussian.sigma), 1e-12), Expected(value=float(gaussian.mu))
    if hasattr(kind, "sub_stat"):
        return float(model.score_one(x, y)), None
    expected = float(model.predict_one(_lags(x)))
    return abs(y - expected), Expected(value=expected)


def _learn(model: Any, x: dict[str, float]) -> None:
    kind = _last(model)
    inner = getattr(kind, "anomaly_detector", None)
    if inner is not None and kind is model:
        # not through the filter: with protection off, river 0.26 would never train what is inside
        _learn(inner, x)
    elif hasattr(kind, "forecast"):
        model.learn_one(x["x"])
    elif hasattr(kind, "score_one") and not _of_one_value(kind):
        model.learn_one(x)
    elif hasattr(kind, "gaussian") or hasattr(kind, "sub_stat"):
        model.learn_one(x, x["x"])
    else:
        model.learn_one(_lags(x), x["x"])
