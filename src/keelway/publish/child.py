"""The process that opens foreign files: ``python -m keelway.publish.child FOLDER``, started by ``apart.py`` alone.

It reads the request in the folder, runs the foreign code, asks the original model on the rows of the proof, converts
it, and leaves everything in the folder as JSON, arrays and ONNX files. Whatever it prints goes nowhere.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from keelway.errors import FailedPrecondition, KeelwayError
from keelway.publish import exchange
from keelway.publish.exchange import (
    EncoderRequest,
    EstimatorRequest,
    FactoryRequest,
    NetworkRequest,
    PythonRequest,
    StoredRequest,
    failure_of,
    write,
)

_Request = EstimatorRequest | NetworkRequest | EncoderRequest | FactoryRequest | PythonRequest | StoredRequest


def main(folder: Path) -> int:
    try:
        request = msgspec.json.decode((folder / exchange.REQUEST).read_bytes(), type=_Request)
        if isinstance(request, EstimatorRequest):
            from keelway.publish.asking import ask_estimator

            write(folder, exchange.RESULT, ask_estimator(request, folder))
        elif isinstance(request, NetworkRequest):
            from keelway.publish.asking_network import ask_file

            write(folder, exchange.RESULT, ask_file(request, folder))
        elif isinstance(request, EncoderRequest):
            from keelway.publish.text_encoder import ask_encoder

            write(folder, exchange.RESULT, ask_encoder(request, folder))
        elif isinstance(request, FactoryRequest):
            from keelway.publish.factory import ask_factory

            write(folder, exchange.RESULT, ask_factory(request, folder))
        elif isinstance(request, StoredRequest):
            from keelway.publish.running import ask_child

            write(folder, exchange.RESULT, ask_child(request, folder))
        else:
            from keelway.publish.python_class import ask_class

            write(folder, exchange.RESULT, ask_class(request, folder))
    except KeelwayError as error:
        write(folder, exchange.FAILURE, failure_of(error))
        return 1
    except MemoryError:
        too_large = FailedPrecondition("the model does not fit into memory", hint="push it from a larger machine")
        write(folder, exchange.FAILURE, failure_of(too_large))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
