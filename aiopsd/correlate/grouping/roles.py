"""What an alertname says before anything is learned of it: is it of those that are passed on, or of those of a cause?

A rule pack knows its alerts (`Alert.role`); of others a word or two tell. It is worth one sighting, and decides only
for which side the first ones are counted: what a place has seen wins within hours, and a name that says nothing starts
in the middle. (Making a name likelier at origins from the start finds more causes of calls that fail, and loses nodes
and zones, whose members all show what elsewhere is a cause's.)
"""

import re
from functools import lru_cache

from aiopsd.correlate.rootcause.knowledge import EVEN

TRAVELS = {
    "symptom": 0.9,  # callers see it, too
    "saturation": 0.4,  # full of its own doing, or because what is below is slow
    "cause": 0.1,
}


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# The first row with a word in the name wins: what names a thing is about that thing, whatever it says of it (a disk's
# latency, a node's errors). Callers see requests that are slow or fail, and nothing else of what is below them.
_WORDS: tuple[tuple[str, frozenset[str]], ...] = (
    ("cause", _set("""cpu memory mem heap oom oomkilled gc disk disks filesystem volume inode inodes raid kernel clock
        ntp node host machine instance pod container kubelet crash crashed crashloop crashlooping restart restarts
        restarting restarted reboot panic evicted deadlock deadlocks lock locks packet packets nic link certificate
        cert tls expiry expiring deploy deployment rollout quota throttled throttling readonly corrupt corruption
        replication leader quorum down missing absent dead killed""")),
    ("saturation", _set("""queue backlog pending saturation saturated exhausted full overload overloaded lag pool
        connections threads""")),
    ("symptom", _set("""latency latencies slow slowness duration response apdex timeout timeouts error errors errs
        failure failures failed failing fails 5xx 500 502 503 504 availability unavailable success slo budget burn p50
        p90 p95 p99""")),
)  # fmt: skip
_SPLIT = re.compile(r"[^a-zA-Z0-9]+|(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@lru_cache(maxsize=16_384)
def by_words(name: str) -> str:
    """Role that the words of an alertname (of an anomaly: its signal) tell; "" when they tell none.

    >>> by_words("HighRequestLatency"), by_words("KubePodCrashLooping"), by_words("AiopsdAnomaly/error_ratio")
    ('symptom', 'cause', 'symptom')
    >>> by_words("NodeDiskIOSaturation"), by_words("RequestQueueFull"), by_words("SomethingIsOff")
    ('cause', 'saturation', '')
    """
    words = {word.lower() for word in _SPLIT.split(name) if word}
    return next((role for role, known in _WORDS if words & known), "")


def travels(role: str, name: str) -> float:
    """Chance that a name is one that is passed on, by the role that a pack gives it ("" for none) or by its words."""
    return TRAVELS.get(role or by_words(name), EVEN)
