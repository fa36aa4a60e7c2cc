"""Reading and writing files: whole or not at all, and every fault said plainly."""

import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from passel.errors import InvalidInput, InvalidModel
from passel.graph import onnx_io, onnx_write
from passel.graph.onnx import lift
from passel.graph.onnx_io import check_writable, raise_opset, read, write

WEIGHT = np.arange(64 * 64, dtype=np.float32).reshape(64, 64)


def proto(opset=18, **initializers):
    arrays = {"w": WEIGHT, **initializers}
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def external(folder: Path, name="m.onnx") -> Path:
    onnx.save(
        proto(),
        str(folder / name),
        save_as_external_data=True,
        location=f"{name}.data",
        size_threshold=0,
    )
    return folder / name


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def weight(path):
    return read(path).graph.initializers["w"].const_value.numpy()


# -- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["path", "str", "bytes", "proto", "ir"])
def test_read_takes_every_form(tmp_path, form):
    path = tmp_path / "m.onnx"
    onnx.save(proto(), str(path))
    source = {
        "path": path,
        "str": str(path),
        "bytes": path.read_bytes(),
        "proto": proto(),
        "ir": ir.load(path),
    }[form]
    assert read(source).graph.inputs[0].name == "x"


@pytest.mark.parametrize("suffix", ["textproto", "json"])
def test_read_takes_text(tmp_path, suffix):
    path = tmp_path / f"m.{suffix}"
    onnx.save(proto(), str(path))
    np.testing.assert_array_equal(weight(path), WEIGHT)
    path.write_text("{ nonsense")
    with pytest.raises(InvalidModel, match="is not ONNX in text form"):
        read(path)


def test_no_such_file(tmp_path):
    with pytest.raises(InvalidInput, match=r"no such file: '.*none\.onnx'"):
        read(tmp_path / "none.onnx")


def test_a_folder(tmp_path):
    with pytest.raises(InvalidInput, match="expected an ONNX file, got the folder"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected an ONNX model, got an empty file"),
        (b"PK\x03\x04 rest", r"got a zip archive \(perhaps a PyTorch checkpoint\)"),
        (b"version https://git-lfs.github.com/spec/v1", "got a Git LFS pointer"),
        (b"<!DOCTYPE html>", "got an HTML page"),
        (b"\x1c\x00\x00\x00TFL3", "got a TensorFlow Lite model"),
        (b"hello there", r"not an ONNX model, or one that is truncated \(11 bytes"),
    ],
)
def test_what_is_not_onnx(tmp_path, data, message):
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(InvalidModel, match=message):
        read(path)


def test_a_truncated_file(tmp_path):
    data = proto().SerializeToString()
    for cut in (len(data) // 2, len(data) - 3):
        with pytest.raises(InvalidModel, match=rf"truncated.*{cut} bytes"):
            read(data[:cut])


@pytest.mark.parametrize("opset", [12, 99])
def test_an_opset_out_of_range(opset):
    newest = onnx.defs.onnx_opset_version()
    with pytest.raises(InvalidModel, match=f"uses opset {opset}; opsets 13 to {newest} can be"):
        read(proto(opset))


def test_external_data_is_missing(tmp_path):
    path = external(tmp_path)
    (tmp_path / "m.onnx.data").unlink()
    with pytest.raises(InvalidModel, match=r"initializer 'w' is in .*m\.onnx\.data', which is mis"):
        read(path)


def test_external_data_is_too_short(tmp_path):
    path = external(tmp_path)
    os.truncate(tmp_path / "m.onnx.data", 1000)
    with pytest.raises(InvalidModel, match=r"'w' needs bytes 0 to 16384 of .* which has 1000"):
        read(path)


def test_external_data_outside_the_folder(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    path = external(inner)
    (inner / "m.onnx.data").rename(tmp_path / "secret")
    (inner / "m.onnx.data").symlink_to(tmp_path / "secret")
    with pytest.raises(InvalidModel, match="outside the model's folder"):
        read(path)


def test_a_cache_that_links_both_files_to_blobs(tmp_path):
    blobs, links = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    links.mkdir()
    external(blobs).rename(blobs / "abc")
    (blobs / "m.onnx.data").rename(blobs / "def")
    (links / "m.onnx").symlink_to(blobs / "abc")
    (links / "m.onnx.data").symlink_to(blobs / "def")
    np.testing.assert_array_equal(weight(links / "m.onnx"), WEIGHT)


def test_neither_reading_nor_lifting_nor_lowering_touches_external_data(tmp_path):
    model = read(external(tmp_path))
    graph = lift(model)
    lowered = graph.binding.lower(graph)
    for m in (model, graph.binding.model, lowered):
        tensor = m.graph.initializers["w"].const_value
        assert isinstance(tensor, ir.ExternalTensor)
        assert tensor.raw is None  # no memory map was opened


def test_arrays_outlive_the_release_of_their_memory_map(tmp_path):
    graph = lift(read(external(tmp_path)))
    (value,) = graph.constants()
    array = value.array()
    value.constant.release()
    np.testing.assert_array_equal(array, WEIGHT)
    np.testing.assert_array_equal(value.array(), WEIGHT)


# -- writing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("outside", [None, False, True])
@pytest.mark.parametrize("from_external", [False, True])
def test_write_then_read(tmp_path, outside, from_external):
    model = read(external(tmp_path, "in.onnx")) if from_external else read(proto())
    write(model, tmp_path / "out.onnx", external=outside)
    np.testing.assert_array_equal(weight(tmp_path / "out.onnx"), WEIGHT)
    assert (tmp_path / "out.onnx.data").exists() is bool(outside)
    assert not [name for name in names(tmp_path) if name.startswith(".passel")]
    onnx.checker.check_model(str(tmp_path / "out.onnx"), full_check=True)


def test_what_is_written_inline_is_the_canonical_protobuf(tmp_path):
    model = proto(small=np.array([1, 2], np.int64), half=np.ones(3, np.float16))
    write(read(model), tmp_path / "m.onnx")
    again = onnx.load(str(tmp_path / "m.onnx"))
    assert len(again.SerializeToString()) == (tmp_path / "m.onnx").stat().st_size
    assert [tensor.name for tensor in again.graph.initializer] == ["w", "small", "half"]


def test_big_models_get_external_data_unasked(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_write, "INLINE_BYTES", 1000)
    write(read(proto()), tmp_path / "m.onnx")
    assert names(tmp_path) == ["m.onnx", "m.onnx.data"]


def test_write_over_the_file_that_is_read(tmp_path):
    path = external(tmp_path)
    for _ in range(2):
        graph = lift(read(path))
        write(graph.binding.lower(graph), path, external=True)
    np.testing.assert_array_equal(weight(path), WEIGHT)
    assert names(tmp_path) == ["m.onnx", "m.onnx.data"]


def test_write_leaves_the_model_as_it_is(tmp_path):
    model = read(proto())
    before = ir.to_proto(model).SerializeToString()
    write(model, tmp_path / "m.onnx", external=True)
    assert ir.to_proto(model).SerializeToString() == before


def failing():
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("outside", [False, True])
def test_a_failure_leaves_the_old_file(tmp_path, outside):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")
    model = read(proto())
    model.graph.initializers["w"].const_value = ir.LazyTensor(
        failing, ir.DataType.FLOAT, ir.Shape([64, 64]), name="w"
    )
    with pytest.raises(InvalidInput, match=r"cannot write '.*m\.onnx': .*No space left"):
        write(model, path, external=outside)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["m.onnx"]


def test_unwritable_places(tmp_path, monkeypatch):
    with pytest.raises(InvalidInput, match="expected a file to write, got the folder"):
        write(read(proto()), tmp_path)
    with pytest.raises(InvalidInput, match="there is no folder"):
        check_writable(tmp_path / "none" / "m.onnx")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InvalidInput, match="the folder is not writable"):
        check_writable(tmp_path / "m.onnx")
    assert names(tmp_path) == []


def test_no_permission_to_read(tmp_path, monkeypatch):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"x")
    monkeypatch.setattr(onnx_io.os, "access", lambda *_: False)
    with pytest.raises(InvalidInput, match="no permission to read"):
        read(path)


# -- opsets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("start", "target"), [(13, 18), (13, 23), (18, 23), (17, 21), (20, 23)])
def test_raise_opset(start, target):
    model = read(proto(start))
    raised, reason = raise_opset(model, target)
    assert (raised.opset_imports[""], reason) == (target, "")
    assert model.opset_imports[""] == start
    np.testing.assert_array_equal(raised.graph.initializers["w"].const_value.numpy(), WEIGHT)


def test_raise_opset_never_lowers():
    model = read(proto(20))
    assert raise_opset(model, 18) == (model, "")


def test_raise_opset_says_why_it_could_not():
    model = read(proto(18))
    raised, reason = raise_opset(model, 999)
    assert raised is model
    assert reason.startswith("left at opset 18: the conversion to 999 failed (")
