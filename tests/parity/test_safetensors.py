"""Weights against the official safetensors library and against transformers' sharded directories."""

import json
import random
import struct

import pytest
import safetensors
import safetensors.torch
import torch
import transformers
from safetensors.torch import load_file, save_file

from conftest import run_program

DTYPES = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64,
          torch.uint64, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn,
          torch.float8_e5m2]


def bytes_of(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_same(found, expected):
    """Same names, element types, shapes and bytes (NaN included)."""
    assert sorted(found) == sorted(expected)
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert bytes_of(found[name]) == bytes_of(tensor), name


def tensors_of_every_dtype():
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for dtype in DTYPES:
        for suffix, shape in [("", (3, 5)), (".scalar", ()), (".empty", (4, 0, 2)), (".\"é\\\n\u2028", (7,))]:
            count = torch.Size(shape).numel() * dtype.itemsize
            raw = torch.randint(0, 2 if dtype == torch.bool else 256, (count,), generator=generator, dtype=torch.uint8)
            tensors[f"{dtype}{suffix}"] = raw.view(dtype).reshape(shape)
    return tensors


def test_files_of_the_official_library_are_read_and_written_byte_for_byte(tmp_path):
    tensors = tensors_of_every_dtype()
    for metadata in [None, {"format": "pt"}, {"note": "\"é\"\t\x01\x7f"}]:
        save_file(tensors, tmp_path / "official.safetensors", metadata)
        run_program("weights_tool", "copy", tmp_path / "official.safetensors", tmp_path / "ours.safetensors")
        assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "official.safetensors").read_bytes()
        assert_same(load_file(tmp_path / "ours.safetensors"), tensors)
        with safetensors.safe_open(tmp_path / "ours.safetensors", "pt") as file:
            assert file.metadata() == metadata


def test_a_file_without_tensors(tmp_path):
    save_file({}, tmp_path / "official.safetensors")
    run_program("weights_tool", "copy", tmp_path / "official.safetensors", tmp_path / "ours.safetensors")
    assert load_file(tmp_path / "ours.safetensors") == {}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny tied Llama: its directory and its tensors."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(vocab_size=160, hidden_size=24, intermediate_size=40, num_hidden_layers=3,
                                      num_attention_heads=3, num_key_value_heads=1, tie_word_embeddings=True)
    made = transformers.LlamaForCausalLM(config)
    directory = tmp_path_factory.mktemp("model")
    made.save_pretrained(directory)
    return directory, load_file(directory / "model.safetensors"), made


def test_shards_of_transformers_are_read(model, tmp_path):
    directory, tensors, made = model
    made.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 1
    (tmp_path / "whole").mkdir()
    run_program("weights_tool", "reshard", tmp_path / "sharded", tmp_path / "whole", 10**9)
    assert_same(load_file(tmp_path / "whole" / "model.safetensors"), tensors)
    hashes = {run_program("weights_tool", "hash", path).stdout for path in (directory, tmp_path / "sharded")}
    assert len(hashes) == 1, "the hash does not depend on the shards"


def test_transformers_reads_our_shards(model, tmp_path):
    directory, tensors, made = model
    (tmp_path / "config.json").write_bytes((directory / "config.json").read_bytes())
    run_program("weights_tool", "reshard", directory, tmp_path, 20_000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(len(bytes_of(tensor)) for tensor in tensors.values())
    assert sorted(index["weight_map"]) == sorted(tensors)
    loaded, report = transformers.LlamaForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"], report
    assert_same(dict(loaded.state_dict()), dict(made.state_dict()))


def official_verdict(path):
    try:
        with safetensors.safe_open(path, "pt") as file:
            for name in file.keys():
                file.get_tensor(name)
        return "read"
    except Exception as error:  # the library has several types
        return str(error)


# Where this reader is stricter than the official library: by the letter of the format, or so that nothing is guessed.
STRICTER = ("the header starts with", "has the unknown key", "is unknown to this build", "appears twice",
            "__metadata__ is null", "is larger than 2^63 bytes", "more than 64 dimensions")


def test_what_the_official_library_refuses_is_refused(tmp_path):
    """Random small damage: everything that we read, the official library reads too, and the other way round but for
    the faults that only we report."""
    save_file({"model.a": torch.ones(2, 3), "b": torch.ones(5, dtype=torch.bfloat16), "c": torch.tensor(1)},
              tmp_path / "x.safetensors", {"format": "pt"})
    whole = (tmp_path / "x.safetensors").read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    header, data = whole[8:8 + length], whole[8 + length:]
    rng = random.Random(3)
    paths = []
    for trial in range(1500):
        changed = bytearray(header)
        for _ in range(rng.randint(1, 2)):
            at = rng.randrange(len(changed))
            kind = rng.randrange(4)
            if kind == 0:
                changed[at] = rng.choice(b'0123456789{}[]",:FI\\x ')
            elif kind == 1:
                del changed[at:at + rng.randint(1, 3)]
            elif kind == 2:
                changed[at:at] = rng.choice([b"0", b",", b"[", b"{}", b'"x":', b'"b":1,', b"-", b" ", b"null", b"\x00"])
            else:
                digits = [i for i, c in enumerate(changed) if chr(c).isdigit()]
                changed[rng.choice(digits)] = rng.choice(b"0123456789")
        path = tmp_path / f"{trial}.safetensors"
        path.write_bytes(struct.pack("<Q", len(changed)) + changed + data)
        paths.append(path)
    verdicts = run_program("weights_tool", "refuse", *paths).stdout.splitlines()
    assert len(verdicts) == len(paths)
    num_read = 0
    for path, ours in zip(paths, verdicts):
        official = official_verdict(path)
        if ours == "read":
            num_read += 1
            assert official == "read", (path.read_bytes(), official)
        elif official == "read":
            assert any(reason in ours for reason in STRICTER), (path.read_bytes(), ours)
    assert 20 < num_read < 1400, "the damage is too weak or too strong to compare anything"
