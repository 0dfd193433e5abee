"""Bytes to samples, alerts, edges and changes: one module per wire format, no sockets and no clocks.

Records of logs and bodies of HTTP requests enter. Columns of samples leave through the series index that is given, and
the model's nouns for everything else. Bad data leaves as rejects that name record and series, or as a DecodeError when
nothing of a body can be used. Which service a series belongs to is `aiopsd.services`' word; what a sample means is the
detectors' business.
"""

from aiopsd.decode.alerts import decode_alerts
from aiopsd.decode.changes import decode_changes
from aiopsd.decode.samples import Columns, check_samples, decode_samples, split_samples
from aiopsd.decode.series import SeriesIndex
from aiopsd.decode.topology import decode_topology, load_topology_yaml

__all__ = [
    "Columns",
    "SeriesIndex",
    "check_samples",
    "decode_alerts",
    "decode_changes",
    "decode_samples",
    "decode_topology",
    "load_topology_yaml",
    "split_samples",
]
