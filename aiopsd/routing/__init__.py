"""Which receiver hears of what, and when: routes, groups with their timers, inhibition, and the needs-update decision.

Enters: alerts and incidents as the correlate stage decides them, and stamps. Leaves: `Notify` effects, and `Audit`
lines that say why a page was held back. Nothing is sent from here and no clock is read: a group asks for its timer
through `wake_at()`, `due(stamp)` flushes what is due, and the notification log is written in the same breath, because
what is decided here is in the durable outbox before anybody delivers it.

Two kinds of groups share the routing tree and the timers:

* With `group_by` set, Alertmanager's: the tuple (route, values of those labels), with its semantics (its
  dispatch/dispatch.go and notify/notify.go), key `{}/{team="a"}:{alertname="X"}`, dedup_key the SHA-256 of that key.
* Without it, by incident: the group is (receiver, incident), however many routes lead there, and its dedup_key is the
  incident's, so that one problem is one item at the receiver from first page to resolution. The decision looks at the
  incident's life (acknowledged, root changed, merged, reopened, resolved) beside the firing set. The first correction
  of the cause that a page named does not wait for group_interval, only for group_wait after the page: metrics lag
  behind alerts, and whoever was woken is at work.

Differences from Alertmanager, on purpose. A tick of `group_interval` at which nothing can be due is skipped, not
fired: it would append a record to the journal for nothing. A repeat is due when `repeat_interval` has elapsed *to* the
tick, not past it: 4 h means 4 h, not 4 h and 5 min. Inhibition asks all sources of an equal-label key: a source that
may not inhibit hides no other.
"""

from aiopsd.routing.decision import LogEntry, action_of, needs_update, needs_update_incident, root_changed
from aiopsd.routing.dispatcher import Dispatcher
from aiopsd.routing.tree import GROUP_WAIT, routes

__all__ = (
    "GROUP_WAIT",
    "Dispatcher",
    "LogEntry",
    "action_of",
    "needs_update",
    "needs_update_incident",
    "root_changed",
    "routes",
)
