"""Services that call each other: made up from a seed, and put in order."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from aiopsd.config import Duration
from aiopsd.errors import ConfigError
from simulations.world.scenario import CallSpec, ServiceSpec, TopologySpec

Layers = NDArray[np.int64]  # of each service in the middle, 0 the uppermost; ascending

_ENTRIES = ("storefront", "mobile-api", "partner-api", "backoffice", "webhooks-in")
_DOMAINS = (
    "checkout", "catalog", "cart", "payments", "orders", "users", "search", "shipping", "inventory", "pricing",
    "reviews", "recommendations", "notifications", "fraud", "invoicing", "media", "loyalty", "returns", "content",
    "sessions",
)  # fmt: skip
_PARTS = ("", "-gateway", "-worker", "-rules", "-export", "-sync", "-index", "-quote")
_STORES = ("-db", "-cache", "-store")


def generate(spec: TopologySpec, rng: np.random.Generator) -> tuple[ServiceSpec, ...]:
    """Layered call graph of `size` services: few entries, domains of cooperating services, stores below, some shared.

    Acyclic by construction: a service calls only what comes later in the returned tuple.
    """
    n = max(3, spec.size)
    n_entry = max(1, min(len(_ENTRIES), n // 12))
    n_store = max(1, n // 4)
    n_mid = n - n_entry - n_store
    names = [(_DOMAINS[i % len(_DOMAINS)] + _PARTS[i // len(_DOMAINS) % len(_PARTS)]) for i in range(n_mid)]
    mids = [_label(names[i], i // (len(_DOMAINS) * len(_PARTS))) for i in range(n_mid)]
    stores = [_label(_DOMAINS[i % len(_DOMAINS)] + _STORES[i // len(_DOMAINS) % 3], i // 60) for i in range(n_store)]
    depth = np.sort(rng.integers(0, 3 if n_mid > 6 else 2, n_mid))  # layer of each service in the middle
    depth -= depth[0]
    out = _entries(n_entry, mids, depth, rng)
    out += _middle(mids, depth, stores, rng)
    called = {c for s in out for c in s.calls}
    for i in range(n_mid):  # nobody is unreachable
        if mids[i] not in called:
            above = int((depth < depth[i]).sum())  # callers: an entry, or whoever stands in a layer above
            k = int(rng.integers(n_entry)) if not above else n_entry + int(rng.integers(above))
            out[k] = msgspec.structs.replace(out[k], calls=out[k].calls | {mids[i]: _call(0.8, rng)})
    called = {c for s in out for c in s.calls}
    for i, name in enumerate(stores):
        if name not in called:
            k = n_entry + i % n_mid
            out[k] = msgspec.structs.replace(out[k], calls=out[k].calls | {name: _call(1.0, rng)})
        work = Duration(round(float(rng.lognormal(np.log(0.004), 0.4)), 4))
        out.append(ServiceSpec(name=name, kind="datastore", work=work, replicas=1, headroom=2.5))
    return tuple(out)


def _label(base: str, k: int) -> str:
    return base if k == 0 else f"{base}-{k + 1}"


def _call(critical: float, rng: np.random.Generator) -> CallSpec:
    return CallSpec(
        rate=round(float(rng.uniform(0.3, 1.3)), 2),
        critical=round(critical, 2),
        timeout=Duration(round(float(rng.uniform(1.0, 4.0)), 1)),
        retries=int(rng.random() < 0.25),
    )


def _entries(n: int, mids: list[str], depth: Layers, rng: np.random.Generator) -> list[ServiceSpec]:
    """What users call: each calls two or more of the uppermost layer."""
    first = [j for j in range(len(mids)) if depth[j] == 0]
    out = []
    for i in range(n):
        picks = rng.choice(first, size=min(len(first), 2 + int(rng.poisson(1.5))), replace=False)
        calls = {mids[int(j)]: _call(float(rng.choice([1.0, 1.0, 0.3])), rng) for j in np.sort(picks)}
        out.append(ServiceSpec(name=_label(_ENTRIES[i % len(_ENTRIES)], i // 5), kind="entry", calls=calls))
    return out


def _middle(mids: list[str], depth: Layers, stores: list[str], rng: np.random.Generator) -> list[ServiceSpec]:
    """Services that call those below, most of all their own domain's and the popular ones, and mostly a store."""
    n = len(mids)
    popular = rng.pareto(1.5, n) + 0.3
    out = []
    for i in range(n):
        calls = {}
        below = np.array([j for j in range(i + 1, n) if depth[j] > depth[i]], dtype=int)
        if len(below):
            near = np.where(below % len(_DOMAINS) == i % len(_DOMAINS), 4.0, 1.0) * popular[below]
            k = min(len(below), int(rng.poisson(1.2)) + (depth[i] == 0))
            for j in np.sort(rng.choice(below, size=k, replace=False, p=near / near.sum())):
                calls[mids[int(j)]] = _call(float(rng.choice([1.0, 0.9, 0.2])), rng)
        if rng.random() < 0.75 or not calls:
            own = i % len(stores) if rng.random() < 0.8 else int(rng.integers(len(stores)))
            calls[stores[own]] = _call(1.0, rng)
        work = Duration(round(float(rng.lognormal(np.log(0.012), 0.5)), 4))
        out.append(ServiceSpec(name=mids[i], calls=calls, work=work, headroom=round(float(rng.uniform(1.7, 3.0)), 2)))
    return out


def ordered(services: tuple[ServiceSpec, ...]) -> list[ServiceSpec]:
    """Callers before callees.

    Raises:
        ConfigError: a call to nobody, or a cycle.
    """
    by_name = {s.name: s for s in services}
    state: dict[str, int] = {}
    order: list[ServiceSpec] = []

    def visit(s: ServiceSpec, path: tuple[str, ...]) -> None:
        if state.get(s.name) == 2:
            return
        if state.get(s.name) == 1:
            raise ConfigError(f"the calls {' -> '.join((*path, s.name))} are a cycle", "$.topology.services")
        state[s.name] = 1
        for callee in s.calls:
            if callee not in by_name:
                raise ConfigError(f"`{s.name}` calls `{callee}`, which is not there", "$.topology.services")
            visit(by_name[callee], (*path, s.name))
        state[s.name] = 2
        order.append(s)

    for s in reversed(services):
        visit(s, ())
    return order[::-1]
