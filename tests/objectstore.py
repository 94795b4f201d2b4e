"""A server on loopback that speaks the protocol of Amazon S3, in a process of its own."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
import urllib.request
from typing import Any

from tests.serving import free_port, wait_until

from keelway.artifacts.blobs import BlobStore

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "tester",
    "AWS_SECRET_ACCESS_KEY": "not-a-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
}


class ObjectStore:
    """For ``with``. ``environment`` is what a process needs to find it by ``s3://`` alone."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ObjectStore:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.environment = {**CREDENTIALS, "AWS_ENDPOINT_URL": self.url}
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until(self._answers, "the object store to start")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(20)

    def new_bucket(self) -> str:
        """The URL of a prefix in an empty bucket."""
        bucket = f"models-{next(self._numbers)}"
        request = urllib.request.Request(f"{self.url}/{bucket}", method="PUT")
        with urllib.request.urlopen(request, timeout=20):
            return f"s3://{bucket}/production"

    def open(self) -> BlobStore:
        """An empty store."""
        options: dict[str, Any] = {"key": "tester", "secret": "not-a-secret", "endpoint_url": self.url}
        return BlobStore.open(self.new_bucket(), client_kwargs={"region_name": "us-east-1"}, **options)

    def _answers(self) -> bool:
        address = f"{self.url}/moto-api/"
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5) as reply:
            return bool(reply.status == 200)
        return False
