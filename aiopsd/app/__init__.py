"""The composition root: a configuration in, a running daemon out. The only module that knows every other.

Resources go on one exit stack in the order in which they are born; tasks live in one group and have names. A source
that cannot go on stops loudly by itself (a metric, /-/ready, the log); everything else that fails ends the daemon, and
a supervisor starts it again from its last committed decision.

`daemon` is the one process, `worker` the other that detection can be moved to, `parts` what both are made of.
"""

from aiopsd.app.daemon import Daemon
from aiopsd.app.parts import check
from aiopsd.app.worker import Worker

__all__ = ("Daemon", "Worker", "check")
