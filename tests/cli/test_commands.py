"""The commands as a user meets them: results on standard output, one-line errors that say what to do next."""

from __future__ import annotations

import hashlib
import io
import json
import ssl
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.certificates import Authority
from tests.serving import Server, Shelf, score
from tests.steps import mood_model, write_tokenizer

from keelway.artifacts.blobs import BlobStore
from keelway.clock import SystemClock
from keelway.contract.names import Reference
from keelway.hosting.registered import RegistrySource
from keelway.registry.store import Registry

if TYPE_CHECKING:
    from tests.cli.conftest import Keelway

COMMANDS = ("push", "serve", "predict", "models", "show", "diff", "promote", "health")
PUSH = ("push", "buyers", "model.joblib", "--sample", "sample.csv", "--target", "bought")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(keelway: Keelway, command: str) -> None:
    ran = keelway(command, "--help")
    assert ran.code == 0
    assert "Examples:" in ran.out
    assert f"keelway {command}" in ran.out


def test_without_arguments_it_lists_the_commands(keelway: Keelway) -> None:
    ran = keelway()
    assert all(command in ran.out + ran.err for command in COMMANDS)


def test_help_loads_no_heavy_library() -> None:
    code = (
        "import sys; sys.argv = ['keelway', '--help']\n"
        "from keelway.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "names = {'numpy', 'onnxruntime', 'sqlalchemy', 'pandas', 'starlette', 'uvicorn', 'rich'}\n"
        "heavy = names & sys.modules.keys()\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


#: Starts ``keelway`` with what is in ``sys.argv``, and fails if a library is loaded that is named before it.
LOADING = """
import sys
heavy, sys.argv = set(sys.argv[1].split(",")), ["keelway", *sys.argv[2:]]
from keelway.cli.main import main
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
"""
#: What no command needs that reads the registry or moves an alias.
HEAVY = ("alembic", "cryptography", "fsspec", "onnxruntime", "pandas", "rich", "starlette", "uvicorn")
#: What a listing does without too; whoever takes a whole version from the registry takes its baseline.
NUMPY = ("numpy", "keelway.contract.baseline", "keelway.types")


@pytest.mark.parametrize(
    ("command", "heavy"),
    [
        (["models"], (*HEAVY, *NUMPY, "sqlalchemy")),
        (["models", "--json"], (*HEAVY, *NUMPY, "sqlalchemy")),
        (["history"], HEAVY + NUMPY),
        (["history", "m", "--json"], HEAVY + NUMPY),
        (["history", "--verify"], HEAVY + NUMPY),
        (["promote", "m@1.1.0", "--force"], HEAVY),
    ],
)
def test_what_reads_the_registry_or_moves_an_alias_loads_no_heavy_library(
    command: list[str], heavy: tuple[str, ...], tmp_path: Path
) -> None:
    store = f"sqlite:///{tmp_path}/registry.db"
    registry = Registry.open(store, clock=SystemClock())
    for number, version in enumerate(("1.0.0", "1.1.0")):
        registry.push("m", version, f"sha256:{number:064x}", who="ann", why="x")
    registry.close()
    words = [sys.executable, "-c", LOADING, ",".join(heavy), *command, "--store", store]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout


def test_a_command_is_found_among_all_and_an_unknown_one_is_refused(keelway: Keelway) -> None:
    assert keelway("models").code == 0
    assert keelway("alias", "--help").code == 0
    unknown = keelway("model")
    assert (unknown.code, "Did you mean 'models'?" in unknown.err) == (2, True)


def test_pushed_model_is_listed_shown_and_predicts(keelway: Keelway, trained: Path) -> None:  # S4
    pushed = keelway(*PUSH, "--trust-pickle", "--json")
    assert pushed.code == 0, pushed.err
    document = json.loads(pushed.out)
    assert document["model"] == "buyers"
    assert document["version"] == "1.0.0"
    listed = json.loads(keelway("models", "--json").out)["models"]
    assert listed == [{"name": "buyers", "versions": ["1.0.0"], "aliases": {"champion": "1.0.0"}}]
    shown = json.loads(keelway("show", "buyers", "--json").out)
    assert shown["model_digest"] == document["model_digest"]
    assert [feature["name"] for feature in shown["signature"]["features"]] == ["age", "income"]
    predicted = keelway("predict", "buyers", "--input", "sample.csv", "--json")
    assert predicted.code == 0, predicted.err
    assert len(json.loads(predicted.out)["predictions"]) == 80
    assert "left out, unknown to the model: bought" in predicted.err


@pytest.mark.usefixtures("in_one_process")
def test_show_measures_time_against_batch_size_or_asks_a_server(keelway: Keelway, trained: Path) -> None:  # T1
    assert keelway(*PUSH, "--trust-pickle").code == 0
    assert "batching" not in json.loads(keelway("show", "buyers", "--json").out)
    batching = json.loads(keelway("show", "buyers", "--measure", "--json").out)["batching"]
    assert (batching["policy"], batching["slots"]) == ("turn", 0)
    assert [rows for rows, _ in batching["curve"]["points"]][:3] == [1, 2, 4]
    shown = keelway("show", "buyers", "--measure").out
    assert "runs on the event loop; requests of one turn of the event loop share a run of at most" in shown
    assert "rows in a run\tms\trows a second\n1\t" in shown
    source = RegistrySource(
        Registry.open("sqlite:///.keelway/registry.db", clock=SystemClock()),
        BlobStore.open(".keelway/artifacts"),
        [Reference("buyers", None, None)],
    )
    with Server(source, runtime={"micro_batch_rows": 1}) as server:
        asked = json.loads(keelway("show", "buyers", "--server", server.url, "--json").out)["batching"]
        assert asked["why"] == "runtime.micro_batch_rows is 1"
        assert keelway(*PUSH, "--trust-pickle", "--version", "2.0.0").code == 0
        other = keelway("show", "buyers@2.0.0", "--server", server.url)
        assert (other.code, "that server answers with version 1.0.0" in other.err) == (1, True)
    assert "no server answers" in keelway("show", "buyers@1.0.0", "--server", server.url).err


def test_a_pickle_is_not_opened_without_consent(keelway: Keelway, trained: Path) -> None:
    ran = keelway(*PUSH)
    assert ran.code == 1
    assert "--trust-pickle" in ran.err
    assert ran.err.strip().splitlines()[-1].startswith("keelway: ")


@pytest.mark.usefixtures("in_one_process")
def test_the_same_push_again_is_the_same_version(keelway: Keelway, trained: Path) -> None:  # S6
    first = json.loads(keelway(*PUSH, "--trust-pickle", "--version", "1.0.0", "--json").out)
    second = json.loads(keelway(*PUSH, "--trust-pickle", "--version", "1.0.0", "--json").out)
    assert first["model_digest"] == second["model_digest"]
    assert first["version"] == second["version"] == "1.0.0"


@pytest.mark.usefixtures("in_one_process")
def test_promote_moves_the_champion_and_history_says_so(keelway: Keelway, trained: Path) -> None:  # S4
    keelway(*PUSH, "--trust-pickle")
    keelway(*PUSH, "--trust-pickle", "--version", "1.1.0")
    assert json.loads(keelway("models", "--json").out)["models"][0]["aliases"] == {"champion": "1.0.0"}
    moved = keelway("promote", "buyers@1.1.0", "--force", "--why", "it is newer")
    assert moved.code == 0, moved.err
    assert "1.1.0 (was 1.0.0)" in moved.out
    history = json.loads(keelway("show", "buyers", "--json").out)["history"]
    assert history[0]["why"] == "it is newer"
    assert history[0]["change"] == "champion: 1.0.0 → 1.1.0 (forced)"


@pytest.mark.usefixtures("in_one_process")
def test_predict_reads_standard_input(keelway: Keelway, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keelway(*PUSH, "--trust-pickle")
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"age": 80, "income": 60}\n{"age": 20, "income": 40}\n'))
    ran = keelway("predict", "buyers", "--input", "-", "--json")
    assert json.loads(ran.out)["predictions"] == [1, 0]


@pytest.mark.usefixtures("in_one_process")
def test_predict_prints_good_rows_and_names_the_bad_ones(
    keelway: Keelway, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # R2
    keelway(*PUSH, "--trust-pickle")
    monkeypatch.setattr(sys, "stdin", io.StringIO("age,income\n80,60\nsecret-value,40\n"))
    ran = keelway("predict", "buyers", "--input", "-")
    assert ran.code == 1
    assert ran.out.splitlines()[1].startswith("0\t1\t")
    assert "row 1" in ran.err
    assert "secret-value" not in ran.err + ran.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("serve",), "nothing to serve"),
        (("serve", "nowhere.onnx"), "there is no file nowhere.onnx"),
        (("serve", "buyers", "model.onnx"), "a file is served alone"),
        (("serve", "Not A Name"), "keelway: "),
        (("show", "buyers"), "keelway push"),
        (("promote", "buyers"), "say which version"),
        (("predict", "buyers", "--input", "nowhere.csv"), "keelway: "),
        (("predict", "http://127.0.0.1:9/x", "--input", "rows.csv"), "no server answers"),
        (("push", "buyers", "nowhere.joblib"), "there is no file nowhere.joblib"),
        (("push", "Bad Name", "model.joblib"), "keelway: "),
        (("serve", "x", "--http", "nonsense"), "HOST:PORT"),
        (("models", "--config", "nowhere.toml"), "cannot read the settings file nowhere.toml"),
        (("models", "--store", "nonsense"), "keelway: "),
    ],
)
def test_a_mistake_gets_one_line_that_says_what_to_do(
    keelway: Keelway, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    (tmp_path / "rows.csv").write_text("age,income\n80,60\n")
    ran = keelway(*arguments)
    assert ran.code == 1
    assert ran.out == ""
    assert len(ran.err.strip().splitlines()) == 1
    assert says in ran.err


def test_errors_are_json_when_asked(keelway: Keelway) -> None:
    ran = keelway("show", "nobody", "--json")
    assert json.loads(ran.err)["error"]["code"] == "NOT_FOUND"


def test_health_says_no_with_exit_code_1(keelway: Keelway) -> None:  # D1
    ran = keelway("health", "http://127.0.0.1:9", "--json")
    assert ran.code == 1
    assert json.loads(ran.out) == {"url": "http://127.0.0.1:9", "ready": False}


def test_a_server_with_tls_is_asked_by_who_trusts_it(
    keelway: Keelway, tmp_path: Path, authority: Authority
) -> None:  # D1
    certificate, key = authority.sign("server", to=tmp_path)
    (tmp_path / "rows.csv").write_text("age,income\n1,2\n")
    tls = {"certificate": str(certificate), "private_key": str(key), "client_ca": str(authority.certificate)}
    shown = ("--certificate", certificate, "--private-key", key)
    trusting = ssl.create_default_context(cafile=str(authority.certificate))
    with Server(Shelf().serve("m", score), trusting, tls=tls) as server:
        asked = keelway("health", server.url, "--ca-certificate", authority.certificate, *shown)
        assert (asked.code, asked.err) == (0, "")
        for command in (("health", server.url), ("predict", server.url, "--input", "rows.csv")):
            assert "is not trusted" in (distrustful := keelway(*command, *shown)).err
            assert distrustful.code == 1
        ran = keelway(
            "predict", server.url, "-i", "rows.csv", "--ca-certificate", authority.certificate, *shown, "--json"
        )
        assert json.loads(ran.out)["predictions"] == [3.0]
        assert keelway("health", server.url, "--ca-certificate", authority.certificate).code == 1  # shows nothing
        assert "go together" in keelway("health", server.url, "--certificate", certificate).err
        assert "cannot be used" in keelway("health", server.url, "--ca-certificate", "nowhere.pem").err


def test_health_of_the_server_of_the_settings_trusts_the_certificate_in_them_and_no_other(
    keelway: Keelway, tmp_path: Path, authority: Authority
) -> None:  # D1
    certificate, key = authority.sign("elsewhere", names="DNS:models.internal", to=tmp_path)
    other, _ = authority.sign("other", to=tmp_path)
    tls = {"certificate": str(certificate), "private_key": str(key)}
    with Server(Shelf().serve("m", score), ssl.create_default_context(), tls=tls) as server:
        config = tmp_path / "keelway.toml"
        settings = f'[http]\naddress = "127.0.0.1:{server.port}"\n[tls]\n'
        config.write_text(settings + f'certificate = "{certificate}"\nprivate_key = "{key}"\n')
        asked = keelway("health", "--config", config)
        assert (asked.code, asked.out) == (0, f"{server.url} is ready\n")
        config.write_text(settings + f'certificate = "{other}"\nprivate_key = "{key}"\n')
        assert "is not trusted" in keelway("health", "--config", config).err


def test_a_wrong_file_is_named_for_what_it_is(keelway: Keelway, tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    ran = keelway("push", "buyers", "picture.png")
    assert ran.code == 1
    assert "PNG" in ran.err


def test_a_pipeline_is_shown_with_its_steps(keelway: Keelway, tmp_path: Path) -> None:  # S5
    write_tokenizer(tmp_path / "tokenizer.json")
    mood_model(tmp_path / "mood.onnx")
    assert keelway("push", "mood", "mood.onnx").code == 0
    (tmp_path / "reviews.toml").write_text(
        """
        [[step]]
        name = "tokens"
        tokenizer = "tokenizer.json"
        tokens = { max_length = 12, multiple = 4 }
        [[step]]
        name = "judge"
        model = "mood"
        inputs = { input_ids = "tokens.input_ids", attention_mask = "tokens.attention_mask" }
        [outputs]
        label = "judge.label"
        """
    )
    pushed = keelway("push", "reviews", "reviews.toml")
    assert pushed.code == 0, pushed.err
    shown = keelway("show", "reviews").out
    words = "text to at most 12 tokens (cut), padded to the longest text in multiples of 4"
    assert f"tokens\t{words}\ttext = text" in shown
    assert "judge\tmood@1.0.0\tattention_mask = tokens.attention_mask, input_ids = tokens.input_ids" in shown
    assert "tokens: tokenizer.json" in shown
    steps = json.loads(keelway("show", "reviews", "--json").out)["steps"]
    assert [(step["name"], step["runtime"]) for step in steps] == [("tokens", "tokens"), ("judge", "onnx")]
    assert steps[0]["options"]["max_length"] == 12
    assert [file["path"] for file in steps[0]["files"]] == ["tokenizer.json"]
    assert steps[1]["models"] == ["mood@1.0.0"]
    (tmp_path / "rows.json").write_text(json.dumps([{"text": "good"}, "bad room"]))
    predicted = json.loads(keelway("predict", "reviews", "--input", "rows.json", "--json").out)
    assert len(predicted["predictions"]) == 2


@pytest.mark.usefixtures("in_one_process")
def test_the_lineage_of_a_push_is_kept_and_shown(keelway: Keelway, trained: Path) -> None:
    # S5
    (trained / "requirements.txt").write_text("scikit-learn\n")
    push = ("push", "leads", "model.joblib", "--sample", "sample.csv", "--target", "bought", "--trust-pickle")
    assert keelway(*push, "--lineage", "seed=0", "--lineage", "metric.auc=0.9").code == 0
    lineage = json.loads(keelway("show", "leads", "--json").out)["metadata"]["lineage"]
    assert (lineage["seed"], lineage["metrics"], lineage["lockfile"]["path"]) == (0, {"auc": 0.9}, "requirements.txt")
    assert lineage["data"]["sha256"] == hashlib.sha256((trained / "sample.csv").read_bytes()).hexdigest()
    assert "metrics: auc 0.9" in keelway("show", "leads").out
    refused = keelway(*push, "--lineage", "metric.auc=high")
    assert (refused.code, "is no number" in refused.err, refused.err.count("\n")) == (1, True, 1)
