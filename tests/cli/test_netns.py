"""Training by hosts that network namespaces stand for (tools/netns_run), over a slow, lossy or interrupted network."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import BUILD, ROOT, says
from dist_runs import assert_nothing_is_left, checkpoints, config_of, endless, inputs, losses, ranks_in, run, wait_for  # noqa: F401

TOOL = [sys.executable, ROOT / "tools" / "netns_run"]
TRAINING = ["--", BUILD / "adept", "run", "run.yaml"]
TIMEOUT = 5  # dist.timeout, s

permitted = subprocess.run([*TOOL, "--hosts", "2", "--", "true"], capture_output=True, text=True)
needs_namespaces = pytest.mark.skipif(permitted.returncode != 0, reason=permitted.stderr.strip())


def start(folder, config, *options):
    (folder / "run.yaml").write_text(json.dumps(config))
    return subprocess.Popen([*TOOL, *options, *TRAINING], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def losses_of_one(inputs, tmp_path_factory):  # noqa: F811
    folder = pathlib.Path(shutil.copytree(inputs, tmp_path_factory.mktemp("one") / "work"))
    run(folder, 1, config_of(1, dist={"deterministic": True}))
    return losses(folder)


@needs_namespaces
@pytest.mark.parametrize("hosts, nproc, options", [(2, 1, ("--delay", "2", "--loss", "1")), (3, 1, ()), (1, 2, ())])
def test_hosts_give_the_losses_of_one_process(losses_of_one, folder, hosts, nproc, options):
    config = config_of(hosts * nproc, dist={"deterministic": True})
    process = start(folder, config, "--hosts", str(hosts), "--nproc", str(nproc), *options)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 0, errors
    assert losses(folder) == losses_of_one
    carried, lost = map(int, re.search(r"(\d+) packets between hosts, of which (\d+) were lost", errors).groups())
    assert (carried > 0) == (hosts > 1) and (lost > 0) == ("--loss" in options)


def wait_for_next_checkpoint(folder, process):
    before = checkpoints(folder)[-1:]

    def is_there():
        assert process.poll() is None, process.communicate()[1]
        return checkpoints(folder)[-1:] != before

    wait_for(is_there)


@needs_namespaces
@pytest.mark.parametrize("nproc", [1, 2])
def test_a_cut_network_ends_every_process_and_names_a_rank(folder, nproc):
    config = endless(dist={"timeout": TIMEOUT})
    process = start(folder, config, "--nproc", str(nproc), "--cut-while", "cut")
    wait_for_next_checkpoint(folder, process)
    (folder / "cut").touch()
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    for here, other in ((r"error: ", "rank 1" if nproc == 1 else r"ranks? [23](, 3)?"), (rf"\[rank {2 * nproc - 1}\] error: ", "rank 0")):
        assert re.search(rf"^{here}{other} gave no sign of life for {TIMEOUT} s \(dist.timeout\)", errors, re.M), errors
    assert len(re.findall(r"ended with 1 after .* s after the cut", errors)) == 2 * nproc
    assert_nothing_is_left(folder)


@needs_namespaces
def test_a_short_interruption_harms_nobody(folder):
    process = start(folder, endless(dist={"timeout": 60}), "--cut-while", "cut")
    wait_for_next_checkpoint(folder, process)
    (folder / "cut").touch()
    time.sleep(2)
    (folder / "cut").unlink()
    wait_for_next_checkpoint(folder, process)
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 143 and "host 1 has its network again" in errors, errors


@needs_namespaces
def test_no_process_outlives_the_tool(folder):
    process = start(folder, endless())
    wait_for_next_checkpoint(folder, process)
    process.kill()
    wait_for(lambda: not ranks_in(folder))


@pytest.mark.parametrize("name, value", [("--hosts", "255"), ("--loss", "101"), ("--delay", "-1"), ("--mtu", "1")])
def test_numbers_out_of_range_are_refused(name, value):
    process = subprocess.run([*TOOL, name, value, "--", "true"], capture_output=True, text=True)
    assert process.returncode == 2 and says(process.stderr, f"netns_run: error: {name}: found {value}; expected ")


def test_what_a_machine_lacks_is_said(tmp_path):
    process = subprocess.run([*TOOL, "--", "true"], env={**os.environ, "PATH": str(tmp_path)}, capture_output=True, text=True)
    assert process.returncode == 3 and says(process.stderr, "netns_run: there is no `ip`; install the package iproute2")


@pytest.mark.skipif(os.geteuid() != 0, reason="tells root what others see")
def test_a_user_without_rights_is_told():
    command = ["setpriv", "--reuid=65534", "--clear-groups", *TOOL, "--", "true"]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 3 and says(process.stderr, "netns_run: network namespaces are not permitted here (...); run as root")
