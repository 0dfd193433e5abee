"""Receivers of notifications: one module per vendor, each with its own Config, a pure `encode` and a thin `send`.

    http.py        the session they share, and what a status means for a retry
    text.py        the words: cause, chain, evidence, services, since, links
    pagerduty.py   Events API v2
    slack.py       incoming webhook, or bot token: one parent message per incident, changes in its thread
    webhook.py     CloudEvents 1.0 signed with HMAC, or Alertmanager's webhook v4

A notifier decides nothing about when or whether; it says one Notification in its receiver's language.
"""
