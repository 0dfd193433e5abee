"""Takers of retraining requests: one module per wire; each is idempotent by the request's dedup_key.

kafka.py     a CloudEvent on a topic, keyed by dedup_key
webhook.py   a CloudEvent posted with an HMAC signature and an Idempotency-Key
"""
