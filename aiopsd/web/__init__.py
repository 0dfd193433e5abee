"""HTTP: what senders push, Alertmanager's API v2, our own API, the pages. Handlers translate; deciding is elsewhere."""
