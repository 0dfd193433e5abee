"""The local log: raw records in N partitions of one SQLite file, for metrics that arrive over HTTP.

Enters: `Entry`s from the door. Leaves: `LogRecord`s, per partition in offset order from 0. One process writes; the same
process reads, from memory as long as it keeps up, or others read the file (`LocalLog.reader`). It refuses to know what
a record means.

The log never drops what was not consumed: records go when `trim` has allowed it and they are older than the retention,
or when the log is larger than it may be. When only unconsumed records are left to drop, appends are refused.

`file` is what stands on the disk; `parts` what its writer knows of each partition; `log` writes, drops and reads;
`reader` reads what another process writes.
"""

from aiopsd.streams.local.log import LocalLog
from aiopsd.streams.local.reader import LocalReader

__all__ = ("LocalLog", "LocalReader")
