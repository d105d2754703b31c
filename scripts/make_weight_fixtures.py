#!/usr/bin/env python3
"""Writes tests/fixtures/weights: small files of torch.save and safetensors, good and bad.

expected.safetensors holds what the files named all_* must give. Files named bad_* must be refused. Run from the
repository's root with torch and safetensors installed; the result is committed.
"""
import argparse
import io
import os
import pathlib
import zipfile
from collections import OrderedDict

import numpy as np
import torch
from safetensors.torch import save_file

OUT = pathlib.Path("tests/fixtures/weights")


def saved(value, **how):
    buffer = io.BytesIO()
    torch.save(value, buffer, **how)
    return buffer.getvalue()


LEGACY = {"_use_new_zipfile_serialization": False}


def edited(archive, change, compression=zipfile.ZIP_STORED):
    """The zip archive with every entry passed through change(name, bytes); None drops it."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(out, "w", compression) as new:
        for entry in old.infolist():
            data = change(entry.filename, old.read(entry))
            if data is not None:
                new.writestr(zipfile.ZipInfo(entry.filename), data, compression)
    return out.getvalue()


def pickle_edited(archive, old, new):
    def change(name, data):
        if name.endswith("data.pkl"):
            assert data.count(old) >= 1, (old, data)
            return data.replace(old, new, 1)
        return data

    return edited(archive, change)


def state_dict():
    torch.manual_seed(0)
    floats = torch.randn(4, 3, 2)
    d = OrderedDict()
    d["f64"] = floats.double() * 1.5
    d["f32"] = floats
    d["f16"] = torch.tensor([0.0, -0.0, 1.0, 65504.0, 6e-8, float("inf"), float("nan"), -1.5]).half()
    d["bf16"] = floats.bfloat16()
    d["i64"] = torch.tensor([-(2**62), 0, 7])
    d["i32"] = torch.tensor([-(2**31), 5], dtype=torch.int32)
    d["i16"] = torch.tensor([-32768, 32767], dtype=torch.int16)
    d["i8"] = torch.tensor([-128, 127], dtype=torch.int8)
    d["u8"] = torch.tensor([0, 255], dtype=torch.uint8)
    d["bool"] = torch.tensor([True, False, True])
    d["scalar"] = torch.tensor(42)
    d["empty"] = torch.zeros(0, 3)
    d["parameter"] = torch.nn.Parameter(torch.arange(4.0))
    d["transposed"] = floats.permute(2, 0, 1)  # shares the storage of f32
    d["sliced"] = floats[1:, ::2, 1]
    d["expanded"] = torch.tensor([3.0]).expand(2, 2)
    d["channels_last"] = torch.arange(24.0).reshape(1, 2, 3, 4).contiguous(memory_format=torch.channels_last)
    return d


class Command:
    def __reduce__(self):
        return (os.system, ("touch executed",))


def write(name, data):
    (OUT / name).write_bytes(data)


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    everything = state_dict()
    write("all_zip.pt", saved(everything))
    write("all_zip_protocol4.pt", saved(everything, pickle_protocol=4))
    write("all_legacy.pth", saved(everything, **LEGACY))
    write("all_legacy_protocol4.pth", saved(everything, pickle_protocol=4, **LEGACY))
    write("all_deflated.pt", edited(saved(everything), lambda _, data: data, zipfile.ZIP_DEFLATED))
    save_file({k: v.detach().clone().contiguous() for k, v in everything.items()}, OUT / "expected.safetensors",
              metadata={"purpose": "test", "note": "h\u00e9"})

    model = torch.nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.copy_(torch.arange(6.0).reshape(2, 3))
        model.bias.copy_(torch.tensor([10.0, 20.0]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    with torch.no_grad():
        model.weight.copy_(torch.arange(6.0).reshape(2, 3))
        model.bias.copy_(torch.tensor([10.0, 20.0]))
    checkpoint = {
        "epoch": 3, "arch": "linear", "best": 0.5, "nothing": None, "flags": (True, False), "big": 2**70,
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(lr=0.1, output=pathlib.PosixPath("runs")),
        "accuracy": np.float64(0.75), "history": np.arange(3),
        "many": {f"t{i}": torch.zeros(1) for i in range(5)},
        "state_dict": OrderedDict((f"module.{k}", v) for k, v in model.state_dict().items()),
    }
    write("checkpoint_zip.pt", saved(checkpoint))
    write("checkpoint_legacy.pth", saved(checkpoint, **LEGACY))
    write("checkpoint_other_key.pt", saved({"a": {"x": torch.ones(1)}, "weights": {"p": torch.ones(2), "q": torch.ones(3)}}))

    small = {"w": torch.arange(6.0).reshape(2, 3)}
    write("bad_foreign_zip.pt", saved({"w": small["w"], "x": Command()}))
    write("bad_foreign_legacy.pth", saved({"w": small["w"], "x": Command()}, **LEGACY))
    write("bad_model.pt", saved(torch.nn.Linear(1, 1)))
    write("bad_no_tensors.pt", saved({"epoch": 3}))
    write("bad_type.pt", saved({"w": torch.zeros(2, dtype=torch.complex64)}))
    write("bad_float8.pt", saved({"w": torch.zeros(2).to(torch.float8_e4m3fn)}))
    good = saved(small)
    write("bad_big_endian.pt", edited(good, lambda n, d: b"big" if n.endswith("byteorder") else d))
    write("bad_no_storage.pt", edited(good, lambda n, d: None if n.endswith("data/0") else d))
    write("bad_short_storage.pt", edited(good, lambda n, d: d[:-4] if n.endswith("data/0") else d))
    write("bad_no_pickle.pt", edited(good, lambda n, d: None if n.endswith("data.pkl") else d))
    write("bad_script.pt", with_entry(good, "constants.pkl"))
    # (2, 3) with strides (3, 1) at offset 0 of a storage of 6: one element too far in each way
    size, stride = b"K\x02K\x03\x86", b"K\x03K\x01\x86"
    write("bad_offset.pt", pickle_edited(good, b"QK\x00" + size, b"QK\x01" + size))
    write("bad_size.pt", pickle_edited(good, size, b"K\x02K\x04\x86"))
    write("bad_stride.pt", pickle_edited(good, stride, b"K\x04K\x01\x86"))
    write("bad_negative_offset.pt", pickle_edited(good, b"QK\x00" + size, b"QJ\xff\xff\xff\xff" + size))
    write("bad_negative_size.pt", pickle_edited(good, size, b"J\xff\xff\xff\xffK\x03\x86"))
    huge = b"\x8a\x08" + (2**62).to_bytes(8, "little")
    write("bad_huge_size.pt", pickle_edited(good, size, huge + b"K\x08\x86"))
    write("bad_huge_stride.pt", pickle_edited(good, stride, huge + huge + b"\x86"))
    # an expanded tensor of a terabyte out of 24 bytes
    write("bad_expanded.pt", pickle_edited(pickle_edited(good, stride, b"K\x00K\x00\x86"), size,
                                           b"J\x00\x00\x10\x00J\x00\x00\x04\x00\x86"))


def with_entry(archive, name):
    out = io.BytesIO(archive)
    with zipfile.ZipFile(out, "a") as new:
        folder = new.namelist()[0].split("/")[0]
        new.writestr(zipfile.ZipInfo(f"{folder}/{name}"), b"x")
    return out.getvalue()


if __name__ == "__main__":
    main()
