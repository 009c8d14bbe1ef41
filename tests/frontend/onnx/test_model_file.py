"""Files that are none, or none that fogconv can run: one sentence each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from fogconv.errors import ModelError
from fogconv.frontend.onnx.model_file import read_model
from fogconv.frontend.onnx.read import read
from tests.frontend.onnx.test_rules import SHAPE, compared, node, numbers, saved
from tests.graph_reference import run_graph


def _set(change: Callable[[ModelProto], object]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        model = onnx.load(path)
        change(model)
        path.write_bytes(model.SerializeToString())

    return apply


def _external(path: Path) -> None:
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (path.parent / "weights.bin").unlink()


def _elsewhere(path: Path) -> None:
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/passwd")
    path.write_bytes(model.SerializeToString())


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no file": (lambda path: path.unlink(), "there is no file"),
    "no onnx": (lambda path: path.write_bytes(b"\x1b[31m" * 100), "no ONNX"),
    "cut off": (lambda path: path.write_bytes(path.read_bytes()[:300]), "no ONNX|damaged|nothing before it makes"),
    "empty": (lambda path: path.write_bytes(b""), "it has no graph"),
    "too old": (_set(lambda model: setattr(model.opset_import[0], "version", 7)), "opset 7; fogconv reads opset 9 to"),
    "too new": (_set(lambda model: setattr(model.opset_import[0], "version", 999)), "opset 999"),
    "an unknown domain": (_set(lambda model: setattr(model.graph.node[0], "domain", "acme")), "Conv of the domain 'acme'"),
    "an unknown operator": (_set(lambda model: setattr(model.graph.node[0], "op_type", "Konv")), "Konv of the domain ''"),
    "a value from nowhere": (_set(lambda model: model.graph.node[0].input.__setitem__(0, "z")), "reads 'z', which nothing"),
    "doubles": (
        _set(lambda model: setattr(model.graph.input[0].type.tensor_type, "elem_type", TensorProto.DOUBLE)),
        "is double; fogconv runs models in float",
    ),
    "weights that are missing": (_external, "keeps its weights in other files, which can't be read"),
    "weights of somebody else": (_elsewhere, "keeps its weights in other files, which can't be read"),
    "an output from nowhere": (
        _set(lambda model: model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))),
        "nothing makes its output 'z'",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_sentence(name: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", [node("Conv", ["x", "w"], name="first")], {"w": numbers(4, 6, 3, 3)})
    spoil, message = BAD[name]
    spoil(path)
    with pytest.raises(ModelError, match=message) as caught:
        read(path, batch=2)
    assert "\n" not in str(caught.value) and str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        (("n", 3, "h", "w"), {}, "pictures of any size; say which with --size"),
        ((4, 3, 8, 8), {}, "takes 4 images at once, not 1"),
        ((1, 3, 8, 8), {"size": (9, 8)}, "takes 8×8 pixels, not 9×8"),
        ((1, "c", 8, 8), {}, "the channels .* are not fixed"),
        ((1, 8), {}, "is not a batch of pictures"),
        ((1, 3, "n"), {}, "the length .* is not fixed"),
    ],
)
def test_an_input_that_does_not_fit_is_one_sentence(
    shape: tuple[int | str, ...], options: dict[str, tuple[int, int]], message: str, tmp_path: Path
) -> None:
    path = saved(tmp_path / "m.onnx", [node("Relu", ["x"])], {}, shape=shape)
    with pytest.raises(ModelError, match=message):
        read(path, **options)


def test_an_output_that_depends_on_the_content_has_no_shape_beforehand(tmp_path: Path) -> None:
    nodes = [node("NonZero", ["x"], "a"), node("Cast", ["a"], to=TensorProto.FLOAT)]
    graph = read(saved(tmp_path / "m.onnx", nodes, {}, shape=(1, 3, 8, 8)))
    assert (graph.outputs[0].tensor, graph.outputs[0].shape) == (None, None)
    x = np.zeros((1, 3, 8, 8), np.float32)
    x[0, 1, 2, 3] = 1
    assert run_graph(graph, x).tolist() == [[0], [1], [2], [3]]


@pytest.mark.parametrize(
    ("nodes", "multiple", "wanted"),
    [
        ([node("Relu", ["x"])], 1, (15, 17)),
        (
            [
                node("Conv", ["x", "w"], "a", strides=[2, 2]),
                node("MaxPool", ["a"], kernel_shape=[2, 2], strides=[2, 2]),
            ],
            4,
            (16, 20),
        ),
        ([node("Conv", ["x", "w"], "a", strides=[3, 3]), node("Resize", ["a", "", "by"])], 3, (15, 18)),
    ],
)
def test_a_frame_is_rounded_up_to_what_the_net_shrinks_it_by(
    nodes: list[onnx.NodeProto], multiple: int, wanted: tuple[int, int], tmp_path: Path
) -> None:
    constants = {"w": numbers(4, 3, 1, 1), "by": np.array([1, 1, 3, 3], np.float32)}
    path = saved(tmp_path / "m.onnx", nodes, constants, shape=("n", 3, "h", "w"))
    model = read_model(path, frame=(15, 17))
    assert (model.multiple, model.shape[2:]) == (multiple, wanted)
    assert read_model(path, size=(9, 9), frame=(15, 17)).shape[2:] == (9, 9)


def test_a_loop_stays_on_the_master(tmp_path: Path) -> None:
    """Its body reads a map from outside."""
    body = helper.make_graph(
        [node("Add", ["acc", "x"], "next"), node("Identity", ["going"], "goes")],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("acc", TensorProto.FLOAT, [2, 6, 8, 10]),
        ],
        [
            helper.make_tensor_value_info("goes", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [2, 6, 8, 10]),
        ],
    )
    nodes = [node("Relu", ["x"], "a"), node("Loop", ["n", "yes", "a"], "l", body=body), node("Sigmoid", ["l"])]
    graph = compared(saved(tmp_path / "m.onnx", nodes, {"n": np.array(3), "yes": np.array(True)}, sizes=SHAPE))
    assert [layer.kind for layer in graph.layers] == ["affine", "host"]


def test_an_lstm_in_the_middle_stays_on_the_master_and_is_listed(tmp_path: Path) -> None:
    """Convs before and after it are layers."""
    n, _, height, width = SHAPE
    nodes = [
        node("Conv", ["x", "w"], "a", pads=[1, 1, 1, 1]),
        node("Reshape", ["a", "rows"], "b"),
        node("Transpose", ["b"], "c", perm=[2, 0, 1]),
        helper.make_node("LSTM", ["c", "in", "back"], ["d"], name="reader", hidden_size=3),
        node("Reshape", ["d", "map"], "e"),
        node("Conv", ["e", "v"]),
    ]
    constants = {
        "w": numbers(4, 6, 3, 3),
        "rows": np.array([n, 4, height * width]),
        "in": numbers(1, 12, 4),
        "back": numbers(1, 12, 3),
        "map": np.array([n, 3, height, width]),
        "v": numbers(5, 3, 1, 1),
    }
    graph = compared(saved(tmp_path / "m.onnx", nodes, constants, sizes=(n, 5, height, width)))
    assert [layer.kind for layer in graph.layers if layer.kind != "slice"] == ["conv", "host", "conv"]
    [recurrent] = [each for each in graph.hosted if each.operator == "LSTM"]
    assert recurrent.node == "reader" and recurrent.macs == n * height * width * 12 * 7
    assert 0 < graph.on_master_share < 1


def test_what_onnx_runtime_can_not_run_either_is_named(tmp_path: Path) -> None:
    nodes = [node("Relu", ["x"], "a"), helper.make_node("MysteryOp", ["a"], ["y"], name="odd", domain="com.microsoft")]
    path = saved(tmp_path / "m.onnx", nodes, {})
    with pytest.raises(ModelError, match=r"node 'odd' \(MysteryOp\) and what follows it: ONNX Runtime can't run this"):
        read(path, batch=SHAPE[0])
