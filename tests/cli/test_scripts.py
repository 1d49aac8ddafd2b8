"""The scripts beside the program."""

import os
import re
import shutil
import subprocess

import pytest
from conftest import ROOT, reads, says


@pytest.mark.parametrize("os_release", ["ID=fedora\nID_LIKE=rhel\n", "ID=alpine\n", None])
def test_setup_on_another_system_says_what_is_needed_and_stops(os_release, tmp_path):
    path = tmp_path / "os-release"
    if os_release is not None:
        path.write_text(os_release)
    process = subprocess.run(
        [ROOT / "scripts" / "setup"], env={**os.environ, "ADEPT_OS_RELEASE": str(path)}, capture_output=True, text=True
    )
    assert process.returncode == 1 and process.stdout == ""
    for words in ("not Debian or Ubuntu", "libyaml-cpp-dev", "C++20 compiler", "torch >= 2.10", "cmake --preset release"):
        assert words in process.stderr


@pytest.mark.parametrize("script", ["setup", "test", "demo", "fetch-demo-assets"])
def test_help_is_printed_and_nothing_done(script):
    process = subprocess.run([ROOT / "scripts" / script, "--help"], capture_output=True, text=True, timeout=10)
    assert process.returncode == 0 and process.stderr == ""
    assert f"scripts/{script} " in process.stdout and "#" not in process.stdout and "set -" not in process.stdout


@pytest.mark.parametrize("script, word", [("setup", "relaese"), ("test", "--fats")])
def test_an_unknown_word_is_refused_before_anything_is_done(script, word):
    process = subprocess.run([ROOT / "scripts" / script, word], capture_output=True, text=True, timeout=10)
    assert process.returncode == 2 and process.stdout == "" and word in process.stderr


def test_fetch_names_an_unknown_asset():
    process = subprocess.run([ROOT / "scripts" / "fetch-demo-assets", "modle"], capture_output=True, text=True)
    assert process.returncode == 2 and "unknown asset modle; known: model, text, gemma" in process.stderr


def test_setup_with_a_python_without_torch_says_so(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    process = subprocess.run(
        [ROOT / "scripts" / "setup"], env={**os.environ, "ADEPT_PYTHON": str(python)}, capture_output=True, text=True
    )
    assert process.returncode == 1
    assert says(process.stderr, f"setup: {python} has no torch; ...torch >= 2.10...ADEPT_PYTHON")


def set_up(tmp_path, *presets, own_python=True, **stubs_and_variables):
    """scripts/setup where every package is installed, and compiler, pip and these programs of the PATH are stubs."""
    for name in ("scripts/setup", "scripts/fetch-jinja", *(f"tools/{path.name}" for path in (ROOT / "tools").glob("*.txt"))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    jinja = tmp_path / ".cache" / "jinja"
    jinja.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "tools" / "jinja.txt", jinja / "requirement.txt")  # is there already
    (tmp_path / "os-release").write_text("ID=debian\n")
    variables = {name: value for name, value in stubs_and_variables.items() if name.isupper()}
    programs = {name.replace("_", "-"): value for name, value in stubs_and_variables.items() if not name.isupper()}
    stubs = {"bin/dpkg-query": "printf installed", "bin/cmake": "mkdir -p build/release build/debug", "bin/python": "echo 2.10",
             ".venv/bin/python": "echo 2.10", ".venv/bin/pip": 'echo "$@" >> pip.log',
             **{f"bin/{name}": answer for name, answer in programs.items()}}  # fmt: skip
    for name, answer in stubs.items():
        stub = tmp_path / name
        stub.parent.mkdir(parents=True, exist_ok=True)
        stub.write_text(f"#!/bin/sh\n{answer}\n")
        stub.chmod(0o755)
    environment = {
        **{name: value for name, value in os.environ.items() if name not in ("ADEPT_PYTHON", "ADEPT_TORCH")},
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "ADEPT_OS_RELEASE": str(tmp_path / "os-release"),
        **({"ADEPT_PYTHON": str(tmp_path / "bin" / "python")} if own_python else {}),
        **variables,
    }
    return subprocess.run([tmp_path / "scripts" / "setup", *presets], env=environment, capture_output=True, text=True)


def requirements(name):
    return [line for line in (ROOT / "tools" / name).read_text().splitlines() if not line.startswith("#")]


CUDA, CPU = requirements("torch-cuda.txt"), requirements("torch-cpu.txt")
PYARROW = next(line for line in requirements("requirements.txt") if line.startswith("pyarrow=="))
ONE_GPU = "echo 'GPU 0: NVIDIA H200 (UUID: GPU-1)'"
NO_DRIVER = "echo NVIDIA-SMI has failed; exit 9"


@pytest.mark.parametrize(
    "nvidia_smi, choice, expected",
    [(ONE_GPU, "", CUDA), (ONE_GPU, "cpu", CPU), (NO_DRIVER, "", CPU), ("echo No devices were found", "", CPU), (NO_DRIVER, "cuda", CUDA)],
)  # fmt: skip
def test_setup_installs_the_torch_of_the_machine(nvidia_smi, choice, expected, tmp_path):
    def installed():
        process = set_up(tmp_path, own_python=False, nvidia_smi=nvidia_smi, ADEPT_TORCH=choice)
        assert process.returncode == 0, process.stderr
        (call,) = (tmp_path / "pip.log").read_text().splitlines()
        return [word for word in call.split() if not word.startswith("-") and word != "install"]

    assert installed() == [*expected, PYARROW]
    assert installed() == [*expected, PYARROW], "a second call installs nothing"


def test_setup_installs_the_other_torch_when_a_gpu_comes(tmp_path):
    for nvidia_smi in (NO_DRIVER, ONE_GPU):
        assert set_up(tmp_path, "tests", own_python=False, nvidia_smi=nvidia_smi).returncode == 0
    assert CPU != CUDA
    libraries, peers, others = (tmp_path / "pip.log").read_text().splitlines()
    assert CPU[0] in libraries and CUDA[0] in others and peers.endswith("-r tools/requirements.txt")
    assert "torch==" not in (ROOT / "tools" / "requirements.txt").read_text(), "the peers do not ask for another torch"


def test_setup_refuses_an_unknown_torch(tmp_path):
    process = set_up(tmp_path, own_python=False, ADEPT_TORCH="rocm")
    assert process.returncode == 2 and reads(process.stderr, "setup: ADEPT_TORCH: found rocm; expected cuda or cpu\n")
    assert not (tmp_path / "pip.log").exists()


def test_setup_ends_with_where_the_program_is(tmp_path):
    process = set_up(tmp_path)
    assert process.returncode == 0, process.stderr
    *_, program, install, path = process.stderr.splitlines()
    assert program.startswith(f"setup: the program is {tmp_path}/build/release/adept. ")
    assert install.split("#")[0].split() == ["cmake", "--install", "build/release", "--prefix", "~/.local"]
    assert path.split("#")[0].strip() == f'export PATH="{tmp_path}/build/release:$PATH"'


def test_setup_of_the_sanitizer_build_names_no_program(tmp_path):
    process = set_up(tmp_path, "debug")
    assert process.returncode == 0 and "program" not in process.stderr, process.stderr


def test_an_engine_that_cannot_be_fetched_is_told(tmp_path):
    for name in ("scripts/fetch-jinja", "tools/jinja.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    python = tmp_path / "python"  # has pip, which finds nothing
    python.write_text('#!/bin/sh\n[ "$3" = --version ]\n')
    python.chmod(0o755)
    process = subprocess.run(
        [tmp_path / "scripts" / "fetch-jinja"], env={**os.environ, "ADEPT_PYTHON": str(python)}, capture_output=True, text=True
    )
    assert process.returncode == 1
    assert says(process.stderr, "fetch-jinja: ...tools/jinja.txt ...not be downloaded; ...pip")
    assert list((tmp_path / ".cache").iterdir()) == []  # nothing half done is left


@pytest.fixture
def sources(tmp_path):
    folder = tmp_path / "sources"
    (folder / "adept").mkdir(parents=True)
    shutil.copytree(ROOT / "cmake", folder / "cmake")
    (folder / "adept" / "a.cpp").write_text("int a;\n")
    return folder


def commit_of_build(sources):
    """As a build finds it."""
    build = sources.parent / "build"
    (build / "generated").mkdir(parents=True, exist_ok=True)
    subprocess.run(["cmake", f"-DSOURCE_DIR={sources}", f"-DBINARY_DIR={build}", "-P", sources / "cmake" / "WriteVersion.cmake"],
                   check=True, env={**os.environ, "GIT_CEILING_DIRECTORIES": str(sources.parent)})  # fmt: skip
    return re.search(r'kCommit = "(.*)"', (build / "generated" / "version_info.cpp").read_text())[1]


def test_a_build_is_named_by_its_commit_and_by_what_is_not_committed(sources):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        return subprocess.run(["git", *identity, *arguments], cwd=sources, check=True, capture_output=True, text=True).stdout.strip()

    assert commit_of_build(sources) == "unknown"
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    commit = git("rev-parse", "--short=12", "HEAD")
    names = [commit_of_build(sources)]
    assert names == [commit]
    for file, text in (("a.cpp", "int b;\n"), ("a.cpp", "int c;\n"), ("new.cpp", "int d;\n"), ("new.cpp", "int e;\n")):
        (sources / "adept" / file).write_text(text)
        names.append(commit_of_build(sources))
        assert re.fullmatch(commit + "-dirty-[0-9a-f]{8}", names[-1])
    assert len(set(names)) == len(names)
    (sources / "notes.txt").write_text("no source\n")
    assert commit_of_build(sources) == names[-1]
