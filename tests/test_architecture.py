"""The rules of the house, held by reading the source: arrows between packages, light start, no pickle, short files."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("accounts", "backends", "rag", "api", "webui")
HEAVY = ("torch", "transformers", "sentence_transformers", "faiss", "vllm", "langchain_community", "openai")

# package -> what of ours it may import; a name with a dot allows that module only
ARROWS = {
    "backends": (),
    "rag": ("backends.types", "backends.errors"),
    "accounts": ("backends.errors",),
    "api": ("rag", "backends", "accounts"),
    "webui": ("rag", "backends", "accounts"),
}

# Nothing may be unpickled, except through the loader that refuses everything but tensors, where original checkpoints
# are brought to safetensors.
PICKLES = ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
TORCH_LOAD_ALLOWED = ("backends/families/",)


def sources(*folders: str) -> list[Path]:
    """The source files of these folders; of the whole program when none is named."""
    files = [] if folders else [ROOT / "app.py", ROOT / "settings.py"]
    for folder in folders or PACKAGES:
        files += sorted((ROOT / folder).rglob("*.py"))
    return files


def imports(file: Path) -> Iterator[tuple[str, int]]:
    """Every module a file imports anywhere in it, also inside functions; relative ones made absolute."""
    here = file.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(here[: len(here) - node.level]) if node.level else ""
            module = ".".join(part for part in (above, node.module or "") if part)
            yield module, node.lineno
            yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)


def ours(module: str) -> bool:
    return module.split(".")[0] in (*PACKAGES, "app", "settings", "bench", "tests")


def within(module: str, allowed: str) -> bool:
    return module == allowed or module.startswith(allowed + ".")


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_what_its_arrows_allow(package: str) -> None:
    wrong = []
    for file in sources(package):
        for module, line in imports(file):
            # `from backends import types` names the package and the module: the package alone is not an import of all.
            bare = any(allowed.startswith(module + ".") for allowed in ARROWS[package])
            fine = bare or any(within(module, allowed) for allowed in (package, *ARROWS[package]))
            if ours(module) and not fine:
                wrong.append(f"{file.relative_to(ROOT)}:{line} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_nothing_imports_the_app_or_its_settings() -> None:
    everything = [*sources(*PACKAGES), *sources("bench")]
    doors = ("app", "settings")
    wrong = [f"{file.relative_to(ROOT)}:{line}" for file in everything for name, line in imports(file) if name in doors]
    assert not wrong, "\n".join(wrong)


def python(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_importing_the_app_and_its_packages_loads_nothing_heavy() -> None:
    code = (
        "import sys, app, api.server, api.serving, backends.models, webui.page\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    run = python(code)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"


def test_importing_the_app_alone_loads_no_web_framework() -> None:
    code = "import sys, app; print([name for name in ('gradio', 'fastapi', 'numpy', 'httpx') if name in sys.modules])"
    run = python(code)
    assert (run.stdout.strip(), run.stderr) == ("[]", "")


@pytest.mark.parametrize("file", sources(), ids=lambda file: str(file.relative_to(ROOT)))
def test_no_file_unpickles(file: Path) -> None:
    place = str(file.relative_to(ROOT))
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = [f"line {line}: import of {name}" for name, line in imports(file) if name.split(".")[0] in PICKLES]
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "allow_dangerous_deserialization":
            found.append(f"line {node.value.lineno}: {node.arg}")
        if isinstance(node, ast.keyword) and node.arg == "trust_remote_code" and not is_false(node.value):
            found.append(f"line {node.value.lineno}: trust_remote_code that may be true")
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and not is_false(node.value):
            found.append(f"line {node.value.lineno}: allow_pickle that may be true")
        if isinstance(node, ast.Call) and is_torch_load(node) and not loads_weights_only(node, place):
            found.append(f"line {node.lineno}: torch.load without weights_only=True, or outside its place")
        if isinstance(node, ast.Attribute) and node.attr in ("load_local", "save_local"):
            found.append(f"line {node.lineno}: {node.attr}, a pickle written in place")
    assert not found, "\n".join(found)


def is_false(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is False


def is_torch_load(node: ast.Call) -> bool:
    function = node.func
    return isinstance(function, ast.Attribute) and function.attr == "load" and ast.unparse(function.value) == "torch"


def loads_weights_only(node: ast.Call, place: str) -> bool:
    safe = any(
        word.arg == "weights_only" and isinstance(word.value, ast.Constant) and word.value.value is True
        for word in node.keywords
    )
    return safe and place.startswith(TORCH_LOAD_ALLOWED)


@pytest.mark.parametrize("file", sources(), ids=lambda file: str(file.relative_to(ROOT)))
def test_a_file_says_what_it_is_and_stays_short(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)), "a module says in its first line what it does"
    assert len(text.splitlines()) <= 400, "look for the second concept in it"


def test_only_the_app_reads_argv_and_environment() -> None:
    """What stands under `if __name__ == "__main__"`, or in a `__main__.py`, is the entry of a child process of ours and
    reads what we hand it. Handing our own environment on to a child is no reading."""
    wrong = []
    for file in sources(*PACKAGES):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        entry = {id(node) for top in tree.body if is_entry(top) for node in ast.walk(top)}
        for node in ast.walk(tree):
            if file.name != "__main__.py" and id(node) not in entry and reads_settings(node):
                wrong.append(f"{file.relative_to(ROOT)}:{node.lineno} reads {ast.unparse(node)}")  # type: ignore[attr-defined]
    assert not wrong, "\n".join(wrong)


def is_entry(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def reads_settings(node: ast.AST) -> bool:
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        return ast.unparse(node.value) == "os.environ"
    return isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.argv", "os.getenv", "os.environ.get")


def test_the_tree_in_architecture_md_is_the_tree() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    tree = text.split("## The tree")[1].split("```")[1]
    rooms: list[str] = []
    drawn = set()
    for line in tree.strip().splitlines():
        name = line.split()[0]
        rooms = [*rooms[: (len(line) - len(line.lstrip())) // 2], name]
        if name.endswith(".py"):
            drawn.add("".join(rooms))
    there = {str(file.relative_to(ROOT)) for file in sources() + sources("bench") if file.name != "__init__.py"}
    assert drawn == there
