"""aiopsd: metrics and alerts in, one explained incident out.

Two pure stages joined by one durable journal. ``DetectStage`` scores metric records and emits anomaly events;
``CorrelateStage`` turns the journal (events, alerts, topology, commands, ticks) into incidents and notifications.
Only ``runtime`` and the plug-ins below it touch the world. See docs/explanation/architecture.md.
"""

__version__ = "0.1.0"
