"""From a model file to answers over HTTP: trains, pushes, serves, calls and compares. ``make demo`` runs it.

The calling side is the standard library alone, as any client would be. Everything is written to ``.cache/demo``; a
registry of your own is neither read nor changed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import Request, urlopen

HERE = Path(__file__).resolve().parent
SCRATCH = HERE.parents[1] / ".cache" / "demo"
KEELWAY = Path(sys.executable).with_name("keelway")
NAME = "lead_scoring"
BOUGHT = "Yes"
#: The largest difference between two probabilities that counts as the same answer; `keelway push` proves as much.
TOLERANCE = 1e-5
#: Seconds until the server must be ready, and until it must be gone after SIGTERM.
READY_WITHIN = STOPPED_WITHIN = 60.0


class Served(NamedTuple):
    url: str
    process: subprocess.Popen[bytes]


class HeldOut(NamedTuple):
    """Customers the model has not seen, one list of values each, and what scikit-learn itself says of them."""

    columns: list[str]
    rows: list[list[float]]
    probabilities: list[float]


def run(title: str, *command: str | Path) -> None:
    """Run ``command`` in the scratch folder, its output going to the reader; a failure ends the demo."""
    print(f"\n== {title}\n$ {' '.join(Path(word).name for word in command)}", flush=True)
    if subprocess.run(command, cwd=SCRATCH, env=environment(), check=False).returncode != 0:
        raise SystemExit(f"demo: {title} failed")


def environment() -> dict[str, str]:
    """The caller's environment without settings of keelway, which would lead out of the scratch folder."""
    return {name: value for name, value in os.environ.items() if not name.startswith("KEELWAY_")}


@contextmanager
def serving() -> Iterator[Served]:
    """A ready server. On leaving, it is told to drain, and has to end by itself with exit code 0."""
    arguments = ("serve", NAME, "--http", "127.0.0.1:0")
    print(f"\n== serve\n$ keelway {' '.join(arguments)}", flush=True)
    log = SCRATCH / "server.log"
    with log.open("wb") as output:
        # In a session of its own: Ctrl-C is the demo's to handle, so that the server gets one signal and not two.
        server = subprocess.Popen(
            [KEELWAY, *arguments],
            cwd=SCRATCH,
            env=environment(),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        url = wait_until_ready(server, log)
        print(f"ready at {url}, log in {log.relative_to(HERE.parents[1])}", flush=True)
        yield Served(url, server)
        if server.poll() is not None:
            raise SystemExit(f"demo: the server ended by itself:\n{log.read_text()}")
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            code = server.wait(STOPPED_WITHIN)
        except subprocess.TimeoutExpired:
            server.kill()
            raise SystemExit(f"demo: the server did not stop within {STOPPED_WITHIN:.0f} s of SIGTERM") from None
    if code != 0:
        raise SystemExit(f"demo: the server ended with exit code {code}:\n{log.read_text()}")
    print("the server drained and stopped")


def wait_until_ready(server: subprocess.Popen[bytes], log: Path) -> str:
    """The URL that the server prints, once its ``/health/ready`` says yes."""
    deadline = time.monotonic() + READY_WITHIN
    while time.monotonic() < deadline and server.poll() is None:
        printed = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())
        if printed is not None and is_ready(printed[0]):
            return printed[0]
        time.sleep(0.05)
    raise SystemExit(f"demo: the server is not ready:\n{log.read_text()}")


def is_ready(url: str) -> bool:
    try:
        with urlopen(f"{url}/health/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:  # refused, reset, timed out, or answered with a status that is not a success
        return False


def call(url: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """GET, or POST of ``body`` as JSON."""
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(url, data, {"Content-Type": "application/json"}), timeout=30) as answer:
        document: dict[str, Any] = json.load(answer)
        return document


def show(document: Mapping[str, Any]) -> None:
    """Print ``document``, one of its fields a line."""
    for field, value in document.items():
        print(f"  {field}: {json.dumps(value)}")


def ask_by_name(url: str, held_out: HeldOut) -> list[float]:
    """The route for people: rows of named values. Prints the answer for one customer; returns P(buys) of each."""
    instances = [dict(zip(held_out.columns, row, strict=True)) for row in held_out.rows]
    print(f"\n== call, rows of named values: POST /v1/models/{NAME}/predict")
    show(call(f"{url}/v1/models/{NAME}/predict", {"instances": instances[:1]}))
    answer = call(f"{url}/v1/models/{NAME}/predict", {"instances": instances})
    buyers = answer["labels"].index(BOUGHT)
    return [row[buyers] for row in answer["probabilities"]]


def ask_by_tensor(url: str, held_out: HeldOut) -> list[float]:
    """The Open Inference Protocol: one tensor. Prints the answer for one customer; returns P(buys) of each."""
    (tensor,) = call(f"{url}/v2/models/{NAME}")["inputs"]

    def request(rows: list[list[float]]) -> dict[str, Any]:
        values = [value for row in rows for value in row]
        head = {"name": tensor["name"], "datatype": tensor["datatype"], "shape": [len(rows), len(held_out.columns)]}
        return {"inputs": [head | {"data": values}]}

    print(f"\n== call, the Open Inference Protocol: POST /v2/models/{NAME}/infer")
    show(call(f"{url}/v2/models/{NAME}/infer", request(held_out.rows[:1])))
    outputs = call(f"{url}/v2/models/{NAME}/infer", request(held_out.rows))["outputs"]
    probabilities: list[float]
    (probabilities,) = (output["data"] for output in outputs if output["shape"][1:] == [2])
    return probabilities[1::2]  # two columns, row after row: No, Yes


def compare(held_out: HeldOut, answers: Mapping[str, list[float]]) -> None:
    """Print the largest difference of each route to scikit-learn; beyond the tolerance the demo has failed."""
    print(f"\n== summary: {len(held_out.rows)} held-out customers, against scikit-learn's own probabilities")
    for route, answer in answers.items():
        differences = [abs(served - own) for served, own in zip(answer, held_out.probabilities, strict=True)]
        print(f"{route}  largest difference {max(differences):.1e}")
        if not all(difference <= TOLERANCE for difference in differences):  # also when one is not a number
            raise SystemExit(f"demo: {route} answers differently from scikit-learn")


def wait_for_ctrl_c(served: Served) -> None:
    """Until Ctrl-C, or until the server ends by itself."""
    print(f"\nthe server stays up until Ctrl-C; try\n  curl {served.url}/v2/models/{NAME}\n  curl {served.url}/metrics")
    sys.stdout.flush()
    try:
        served.process.wait()
    except KeyboardInterrupt:
        print("\nstopping", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train, push, serve and call a lead-scoring model.")
    parser.add_argument("--once", action="store_true", help="stop the server after the summary")
    once: bool = parser.parse_args().once
    # Whoever ends the demo with SIGTERM wants the server gone too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("demo: stopped by SIGTERM"))

    started = time.monotonic()
    shutil.rmtree(SCRATCH, ignore_errors=True)
    SCRATCH.mkdir(parents=True)
    run("train", sys.executable, HERE / "train.py")
    push = ("--sample", "leads.parquet", "--target", "Purchase", "--trust-pickle")
    run("push", KEELWAY, "push", NAME, "model.joblib", *push)
    held_out = HeldOut(**json.loads((SCRATCH / "held_out.json").read_text()))
    with serving() as served:
        by_name, by_tensor = ask_by_name(served.url, held_out), ask_by_tensor(served.url, held_out)
        compare(held_out, {"/v1 predict": by_name, "/v2 infer  ": by_tensor})
        print(f"from file to answers in {time.monotonic() - started:.0f} s")
        if not once:
            wait_for_ctrl_c(served)


if __name__ == "__main__":
    main()
