"""The decode worker: a worker whose engine continues from KV caches that others computed."""
