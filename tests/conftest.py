"""Fixtures of the Python tests: where the programs and the optional real data are."""

import functools
import os
import pathlib
import re
import selectors
import shutil
import signal
import socket
import subprocess
import warnings

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUILD = pathlib.Path(os.environ.get("ADEPT_BUILD", ROOT / "build" / "release"))
DATA = pathlib.Path(os.environ.get("ADEPT_TEST_DATA", ROOT.parent / "shared" / "data"))
ASSETS = pathlib.Path(os.environ.get("ADEPT_TEST_ASSETS", ROOT / ".cache"))  # of scripts/fetch-demo-assets
OPTIONAL_INPUTS = {"real_text": "real_text", "demo_text": "demo_assets", "smollm2_gguf": "demo_assets",
                   "gemma3_gguf": "demo_assets"}  # fixture: marker
os.environ["XDG_CACHE_HOME"] = str(BUILD / "cache")  # not the user's
os.environ["ADEPT_RESULT_CACHE"] = "off"  # every test measures for itself


def says(text, pattern):
    """Whether a line of a message contains `pattern`, in which "..." stands for any words: a test names the file, the key,
    the values and the key terms, and leaves the wording open."""
    return re.search(".*".join(map(re.escape, pattern.split("..."))), text) is not None


def reads(text, pattern):
    """Whether a whole message is such a pattern."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("..."))), text) is not None


def pytest_configure(config):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the programs inherit it; under nohup it is ignored
    for marker in OPTIONAL_INPUTS.values():
        config.addinivalue_line("markers", f"{marker}: uses these where they are present; every test with such a fixture has it")


def pytest_collection_modifyitems(items):
    for item in items:
        for fixture in OPTIONAL_INPUTS.keys() & set(item.fixturenames):
            item.add_marker(OPTIONAL_INPUTS[fixture])


class ForkServer:
    """Runs commands of `adept` in processes that have libtorch loaded already, four times as fast where they are short."""

    fixed = ("LD_", "OMP_", "GOMP_", "KMP_", "MKL_", "ATEN_", "TORCH_", "MALLOC_", "GLIBC_")  # read when a program is loaded

    Popen = subprocess.Popen  # not that of programs_end_with_their_test: it ends when the socket does

    def __init__(self):
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.environment = self.of_loading(os.environ)
        self.process = self.Popen([BUILD / "fork_server", str(theirs.fileno())], pass_fds=[theirs.fileno()])
        theirs.close()

    def of_loading(self, environment):
        return {name: value for name, value in environment.items() if name.startswith(self.fixed)}

    def can_run(self, options):
        return options.keys() <= {"cwd", "env"} and self.of_loading(options.get("env") or os.environ) == self.environment

    def run(self, command, cwd=None, env=None):
        pipes = [os.pipe(), os.pipe()]
        variables = [f"{name}={value}" for name, value in (env or os.environ).items()]
        texts = [cwd or os.getcwd(), str(len(command) - 1), *command[1:], *variables]
        socket.send_fds(self.socket, [b"".join(os.fsencode(text) + b"\0" for text in texts)], [write for _, write in pipes])
        for _, write in pipes:
            os.close(write)
        with selectors.DefaultSelector() as selector:
            output = [b"", b""]
            for stream, (read, _) in enumerate(pipes):
                selector.register(read, selectors.EVENT_READ, stream)
            while selector.get_map():
                for key, _ in selector.select():
                    data = os.read(key.fd, 1 << 16)
                    output[key.data] += data
                    if not data:
                        selector.unregister(key.fd)
                        os.close(key.fd)
        status = os.waitstatus_to_exitcode(int(self.socket.recv(64)))
        return subprocess.CompletedProcess(command, status, *map(self.text_of, output))

    @staticmethod
    def text_of(output):
        """As subprocess gives it with text=True."""
        return output.decode().replace("\r\n", "\n").replace("\r", "\n")


@functools.cache
def fork_server():
    """None where there is none, or one of another build than the program."""
    if not (BUILD / "fork_server").exists():
        return None
    server, version = ForkServer(), [str(BUILD / "adept"), "--version"]
    if server.run(version).stdout == subprocess.run(version, capture_output=True, text=True, check=True).stdout:
        return server
    warnings.warn("fork_server is of another build than adept: commands run slower, without it (build all of them)")
    return None


def run_program(name, *arguments, check=True, **options):
    """Runs a program of the build; returns the completed process with its output as text."""
    command = [str(BUILD / name), *map(str, arguments)]
    starts_itself = "--nproc" in command  # by /proc/self/exe, which is the fork server in a process of it
    if name == "adept" and not starts_itself and (server := fork_server()) and server.can_run(options):
        process = server.run(command, **options)
    else:
        process = subprocess.run(command, capture_output=True, text=True, **options)
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
