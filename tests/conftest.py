"""Fixtures of the Python tests: where the programs and the optional real data are."""

import os
import pathlib
import shutil
import signal
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUILD = pathlib.Path(os.environ.get("ADEPT_BUILD", ROOT / "build" / "release"))
DATA = pathlib.Path(os.environ.get("ADEPT_TEST_DATA", ROOT.parent / "shared" / "data"))
ASSETS = pathlib.Path(os.environ.get("ADEPT_TEST_ASSETS", ROOT / ".cache"))  # of scripts/fetch-demo-assets
OPTIONAL_INPUTS = {"real_text": "real_text", "demo_text": "demo_assets", "smollm2_gguf": "demo_assets",
                   "gemma3_gguf": "demo_assets"}  # fixture: marker
os.environ["XDG_CACHE_HOME"] = str(BUILD / "cache")  # not the user's
os.environ["ADEPT_RESULT_CACHE"] = "off"  # every test measures for itself


def pytest_configure(config):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the programs inherit it; under nohup it is ignored
    for marker in OPTIONAL_INPUTS.values():
        config.addinivalue_line("markers", f"{marker}: uses these where they are present; every test with such a fixture has it")


def pytest_collection_modifyitems(items):
    for item in items:
        for fixture in OPTIONAL_INPUTS.keys() & set(item.fixturenames):
            item.add_marker(OPTIONAL_INPUTS[fixture])


def run_program(name, *arguments, check=True, **options):
    """Runs a program of the build; returns the completed process with its output as text."""
    process = subprocess.run([str(BUILD / name), *map(str, arguments)], capture_output=True, text=True, **options)
    if check and process.returncode != 0:
        raise AssertionError(f"{name} {arguments} ended with {process.returncode}:\n{process.stdout}\n{process.stderr}")
    return process


def preload(folder, source, **variables):
    """The environment of a program whose calls `source` stands in for."""
    (folder / "preloaded.c").write_text(source)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", "preloaded.so", "preloaded.c", "-ldl"], cwd=folder, check=True)
    return {**os.environ, "LD_PRELOAD": str(folder / "preloaded.so"), **variables}


@pytest.fixture(autouse=True)
def programs_end_with_their_test(monkeypatch):
    started = []

    class Popen(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Popen)
    yield
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def adept():
    """Calls the `adept` program: adept("eval", "--model", path, ...)."""
    return lambda *arguments, **options: run_program("adept", *arguments, **options)


@pytest.fixture
def folder(inputs, tmp_path):
    """A copy of the folder `inputs` of a module, for one test."""
    return pathlib.Path(shutil.copytree(inputs, tmp_path / "work"))


@pytest.fixture(scope="session")
def real_text():
    """The folder of real text files (*.gz), or None where there are none: a stand-in is tested instead."""
    return DATA if any(DATA.glob("*.gz")) else None


@pytest.fixture(scope="session")
def demo_text():
    """The folder of the demo's texts, or None where they were not fetched."""
    folder = ASSETS / "text"
    return folder if all((folder / name).is_file() for name in ("hp.obo", "lee_background.cor", "enwiki.xml.bz2")) else None


@pytest.fixture(scope="session")
def smollm2_gguf():
    """The GGUF file of SmolLM2-135M-Instruct. Tests of the real model are skipped where it was not fetched."""
    path = ASSETS / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not path.is_file():
        pytest.skip("the real model is not here (scripts/fetch-demo-assets model)")
    return path


@pytest.fixture(scope="session")
def gemma3_gguf():
    """The GGUF file of Gemma 3 270M. Tests of it are skipped where it was not fetched."""
    path = ASSETS / "models" / "gemma-3-270m-Q4_K_M.gguf"
    if not path.is_file():
        pytest.skip("Gemma 3 is not here (scripts/fetch-demo-assets gemma)")
    return path
