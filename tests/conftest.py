"""Fixtures of the Python tests: where the programs and the optional real data are."""

import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUILD = pathlib.Path(os.environ.get("ADEPT_BUILD", ROOT / "build" / "release"))
os.environ["XDG_CACHE_HOME"] = str(BUILD / "cache")  # not the user's


def run_program(name, *arguments, check=True, **options):
    """Runs a program of the build; returns the completed process with its output as text."""
    process = subprocess.run([str(BUILD / name), *map(str, arguments)], capture_output=True, text=True, **options)
    if check and process.returncode != 0:
        raise AssertionError(f"{name} {arguments} ended with {process.returncode}:\n{process.stdout}\n{process.stderr}")
    return process


@pytest.fixture(scope="session")
def adept():
    """Calls the `adept` program: adept("eval", "--model", path, ...)."""
    return lambda *arguments, **options: run_program("adept", *arguments, **options)


@pytest.fixture(scope="session")
def real_text():
    """The folder of real text files, or None where this checkout has none beside it."""
    folder = pathlib.Path(os.environ.get("ADEPT_TEST_DATA", ROOT.parent / "shared" / "data"))
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def smollm2_gguf():
    """The GGUF file of SmolLM2-135M-Instruct that scripts/fetch-demo-assets puts into .cache, or None."""
    path = ROOT / ".cache" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    return path if path.is_file() else None
