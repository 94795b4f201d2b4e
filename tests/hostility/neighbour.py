"""The neighbour: a caller with manners, who keeps asking while others attack, and knows every answer beforehand."""

from __future__ import annotations

import http.client
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import grpc
import numpy as np
from tests.serving import PATIENCE, forest

from keelway.wire.open_inference_pb2 import ModelInferRequest, ModelInferResponse

#: The library gives channels to one address one connection: the attacker's, and its fate.
ALONE = [("grpc.use_local_subchannel_pool", 1)]
#: Longest pause between two questions, in seconds. It leaves the attackers of a small machine something to attack with.
PAUSE = 0.005


class Question(NamedTuple):
    """``right`` is the label and the probabilities that scikit-learn itself gives."""

    path: str
    body: bytes
    label: int
    probabilities: list[float]


def questions() -> Iterator[Question]:
    """Every flower of the forest, in the people's format and in the Open Inference Protocol by turns."""
    _, signature, samples, labels, probabilities = forest()
    names = [feature.name for feature in signature.features]
    for row, label, chances in itertools.cycle(zip(samples, labels, probabilities, strict=True)):
        values = [float(value) for value in row]
        people = {"instances": [dict(zip(names, values, strict=True))]}
        tensor = {"name": "input", "shape": [1, 4], "datatype": "FP32", "data": values}
        for path, body in (("/v1/models/iris/predict", people), ("/v2/models/iris/infer", {"inputs": [tensor]})):
            yield Question(path, json.dumps(body).encode(), int(label), chances.tolist())


def is_right(question: Question, answer: Any) -> bool:
    if "outputs" in answer:
        outputs = {output["name"]: output["data"] for output in answer["outputs"]}
        labels, chances = outputs["label"], outputs["probabilities"]
    else:
        labels, (chances,) = answer["predictions"], answer["probabilities"]
    return labels == [question.label] and bool(np.allclose(chances, question.probabilities, atol=1e-5))


class Neighbour:
    """For ``with``: asks over one connection until the block ends, then says whether it was harmed.

    ``may_be_shed``: the attack takes all the room there is, and an honest 503 with Retry-After is no harm."""

    def __init__(self, port: int, may_be_shed: bool = False) -> None:
        self.answers: Counter[str] = Counter()
        self.harm: list[str] = []
        self.slowest = 0.0
        self._port = port
        self._may_be_shed = may_be_shed
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._live, name="neighbour")

    def __enter__(self) -> Neighbour:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.set()
        self._thread.join()

    def _live(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        try:
            for question in questions():
                self._ask(connection, question)
                if self.harm or self._leaving.wait(PAUSE):
                    return
        except Exception as error:  # noqa: BLE001 - whatever it is, it is harm
            self.harm.append(repr(error))
        finally:
            connection.close()

    def _ask(self, connection: http.client.HTTPConnection, question: Question) -> None:
        began = time.monotonic()
        connection.request("POST", question.path, question.body, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        body = reply.read()
        self.slowest = max(self.slowest, time.monotonic() - began)
        self.answers[str(reply.status)] += 1
        if reply.status == 503 and self._may_be_shed and reply.headers["retry-after"]:
            return
        if reply.status != 200 or not is_right(question, json.loads(body)):
            self.harm.append(f"{question.path} answered {reply.status}: {body[:200]!r}")


class GrpcNeighbour(Neighbour):
    """The same over gRPC, on a channel that is never made anew."""

    def _live(self) -> None:
        _, _, samples, labels, probabilities = forest()
        try:
            with grpc.insecure_channel(f"127.0.0.1:{self._port}", options=ALONE) as channel:
                infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
                for row, label, chances in itertools.cycle(zip(samples, labels, probabilities, strict=True)):
                    self._infer(infer, row, Question("ModelInfer", b"", int(label), chances.tolist()))
                    if self.harm or self._leaving.wait(PAUSE):
                        return
        except Exception as error:  # noqa: BLE001 - whatever it is, it is harm
            self.harm.append(repr(error))

    def _infer(self, infer: Any, row: Any, question: Question) -> None:
        tensor = ModelInferRequest.InferInputTensor(name="input", datatype="FP32", shape=(1, 4))
        message = ModelInferRequest(model_name="iris", inputs=[tensor], raw_input_contents=[row.tobytes()])
        began = time.monotonic()
        try:
            reply = ModelInferResponse.FromString(infer(message.SerializeToString(), timeout=PATIENCE))
        except grpc.RpcError as error:
            self.answers[error.code().name] += 1
            if error.code().name != "UNAVAILABLE" or not self._may_be_shed:
                raise
            return
        self.slowest = max(self.slowest, time.monotonic() - began)
        self.answers["OK"] += 1
        raw = dict(zip((output.name for output in reply.outputs), reply.raw_output_contents, strict=True))
        answer = [
            {"name": "label", "data": np.frombuffer(raw["label"], np.int64).tolist()},
            {"name": "probabilities", "data": np.frombuffer(raw["probabilities"], np.float32).tolist()},
        ]
        if not is_right(question, {"outputs": answer}):
            self.harm.append("ModelInfer answered something else")
