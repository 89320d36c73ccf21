"""A typed Python client of a Segue cluster, over gRPC.

>>> async with SegueClient("127.0.0.1:9000") as client:
...     async for delta in client.stream("Once upon a time", max_tokens=64):
...         print(delta.text, end="")
"""

from segue.base.tls import TlsFiles
from segue.client.client import Answer, SegueClient
from segue.client.connection import Connection
from segue.client.fleet import FleetClient
from segue.client.messages import Delta
from segue.client.session import Session

__all__ = ["Answer", "Connection", "Delta", "FleetClient", "SegueClient", "Session", "TlsFiles"]
