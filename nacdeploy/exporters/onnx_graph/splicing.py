"""The graph of an artifact in the place of the network that an ONNX file held: all else is as there."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper, version_converter

from nacdeploy.base.errors import NacdeployError
from nacdeploy.models.from_onnx.graph.folding import inner_graphs
from nacdeploy.models.from_onnx.graph.links import Links, ordered, reads_of
from nacdeploy.models.from_onnx.regions import Parts

_FIXED = "is_as_fixed"


def spliced(
    parts: Parts,
    network: onnx.ModelProto,
    file: onnx.ModelProto,
    fixed: Mapping[str, NDArray],
    sizes: Mapping[str, Mapping[int, int]],
) -> onnx.ModelProto:
    """Return the file with `network` in the place of the part that torch held.

    Where inputs are fixed, or sizes by input and axis are, the file's own graph answers all other calls.

    Raises:
        NacdeployError: the parts that stay cannot be brought to the operators' version of the network.
    """
    opset = max(_opset(network), _opset(parts.whole)) if parts.is_cut or fixed or sizes else _opset(network)
    network = _converted(network, opset)
    frame = _frame(parts, opset)
    inner = _apart(network, frame.graph)
    graph = GraphProto(name=file.graph.name or "graph")
    nodes = ordered([*frame.graph.node, *inner.node])
    graph.node.extend(_needed(nodes, [each.name for each in file.graph.output]))
    read = {name for node in graph.node for name in reads_of(node)} | {each.name for each in file.graph.output}
    graph.initializer.extend(t for t in (*frame.graph.initializer, *inner.initializer) if t.name in read)
    _typed(graph, file.graph, parts.whole.graph)
    imports = {each.domain: each.version for each in (*file.opset_import, *frame.opset_import, *network.opset_import)}
    if fixed or sizes:
        graph = _guarded(graph, _converted(file, opset).graph, fixed, sizes)
    graph.input.extend(_inputs(file.graph))
    graph.output.extend(file.graph.output)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid(k, v) for k, v in imports.items()])
    made.ir_version = max(network.ir_version, file.ir_version)
    return dressed(made, file)


def dressed(model: onnx.ModelProto, file: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph with the metadata and texts of a file, and its names of the batch."""
    for name in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        setattr(model, name, getattr(file, name))
    model.graph.name, model.graph.doc_string = file.graph.name or "graph", file.graph.doc_string
    del model.metadata_props[:]
    model.metadata_props.extend(file.metadata_props)
    texts = {value.name: value for value in (*file.graph.input, *file.graph.output)}
    for value in (*model.graph.input, *model.graph.output):
        if value.name in texts:
            if texts[value.name].doc_string:
                value.doc_string = texts[value.name].doc_string
            value.metadata_props.extend(texts[value.name].metadata_props)
            _name_batch(value, texts[value.name])
    return model


def _name_batch(value: ValueInfoProto, own: ValueInfoProto) -> None:
    axes, theirs = value.type.tensor_type.shape.dim, own.type.tensor_type.shape.dim
    if len(axes) and len(theirs) and theirs[0].dim_param and axes[0].dim_param:
        axes[0].dim_param = theirs[0].dim_param


def _opset(model: onnx.ModelProto) -> int:
    return next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))


def _frame(parts: Parts, opset: int) -> onnx.ModelProto:
    """Return the nodes around the network as a graph that takes the network's answers and gives its inputs."""
    links = Links(parts.whole)
    around = set(parts.before | parts.behind)
    around |= {links.maker[name] for name in links.outputs if links.maker.get(name) in links.fixed}
    crossing = {each.name: each for each in parts.network.graph.output}
    inside = {name for i in around for name in links.nodes[i].output}
    outputs = [n for n in (*links.outputs, *(each.name for each in parts.network.graph.input)) if n in inside]
    frame = links.part(around, {}, dict.fromkeys(outputs))
    read = {name for node in frame.graph.node for name in reads_of(node)}
    frame.graph.input.extend(each for name, each in crossing.items() if name in read)
    return _converted(frame, opset)


def _converted(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return a graph with another version of ONNX's operators. Where ONNX's own converter has no way, operators whose
    form stayed stand there as they are: the checker and the comparison with the file decide.

    Raises:
        NacdeployError: an operator has no such version.
    """
    if not model.graph.node or _opset(model) == opset:
        return model
    named = onnx.ModelProto.FromString(model.SerializeToString())
    for each in named.opset_import:
        each.version = opset if each.domain in ("", "ai.onnx") else each.version
    if all(_is_same(node, _opset(model), opset) for node in _all_nodes(model.graph)):
        return named
    try:
        return _with_old_rule(version_converter.convert_version(model, opset), _opset(model))
    except Exception as error:  # its errors share no class
        if all(_has_form(node, _opset(model), opset) for node in _all_nodes(model.graph)):
            return named
        reason = " ".join(str(error).split())[:200]
        raise NacdeployError(
            f"the nodes that stay as they are cannot be brought from opset {_opset(model)} to {opset} ({reason}); "
            "export the file anew at a newer opset, or set export.opset in the profile"
        ) from error


def _with_old_rule(model: onnx.ModelProto, old: int) -> onnx.ModelProto:
    """Return a graph that resizes by the only rule that there was before opset 11, which ONNX's converter forgets."""
    rule = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    for node in _all_nodes(model.graph) if old < 11 else ():
        if node.op_type == "Resize":
            node.attribute.extend(helper.make_attribute(key, value) for key, value in rule.items())
    return model


def _has_form(node: NodeProto, old: int, new: int) -> bool:
    """Tell whether an operator has the inputs and attributes in one version that it has in another."""
    if node.domain not in ("", "ai.onnx"):
        return True
    try:
        schemas = [onnx.defs.get_schema(node.op_type, version, "") for version in (old, new)]
    except onnx.defs.SchemaError:
        return False
    forms = [([each.name for each in schema.inputs], sorted(schema.attributes)) for schema in schemas]
    return forms[0] == forms[1]


def _is_same(node: NodeProto, old: int, new: int) -> bool:
    if node.domain not in ("", "ai.onnx"):
        return True
    try:
        versions = [onnx.defs.get_schema(node.op_type, version, "").since_version for version in (old, new)]
    except onnx.defs.SchemaError:
        return False
    return versions[0] == versions[1]


def _all_nodes(graph: GraphProto) -> Iterable[NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in inner_graphs(attribute):
                yield from _all_nodes(inner)


def _apart(network: onnx.ModelProto, frame: GraphProto) -> GraphProto:
    """Return the network's graph whose own names are no names of the frame."""
    made = GraphProto.FromString(network.graph.SerializeToString())
    taken = {name for node in _all_nodes(frame) for name in (*node.input, *node.output, node.name)}
    taken |= {each.name for each in frame.initializer}
    kept = {each.name for each in (*made.input, *made.output)}
    own = {name for node in made.node for name in node.output} | {each.name for each in made.initializer}
    renamed = {name: f"network/{name}" for name in own & taken - kept}
    for node in made.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
        node.name = f"network/{node.name}" if node.name in taken else node.name
    for tensor in made.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    return made


def _needed(nodes: Sequence[NodeProto], outputs: Iterable[str]) -> list[NodeProto]:
    """Return the nodes that outputs need."""
    wanted, kept = set(outputs), list[NodeProto]()
    for node in reversed(nodes):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= reads_of(node)
    return kept[::-1]


def _inputs(file: GraphProto) -> list[ValueInfoProto]:
    constants = {each.name for each in file.initializer}
    return [each for each in file.input if each.name not in constants]


def _typed(graph: GraphProto, file: GraphProto, read: GraphProto) -> None:
    """Cast inputs and outputs whose type in the file is another than in the graph that was read of it."""
    kinds = {each.name: each.type.tensor_type.elem_type for each in (*read.input, *read.output)}
    first, last = list[NodeProto](), list[NodeProto]()
    for value in _inputs(file):
        own = value.type.tensor_type.elem_type
        if kinds.get(value.name, own) != own:
            _rename(graph, value.name, f"{value.name}/cast")
            first.append(helper.make_node("Cast", [value.name], [f"{value.name}/cast"], to=kinds[value.name]))
    for value in file.output:
        own = value.type.tensor_type.elem_type
        if kinds.get(value.name, own) != own:
            _rename(graph, value.name, f"{value.name}/cast")
            last.append(helper.make_node("Cast", [f"{value.name}/cast"], [value.name], to=own))
    nodes = [*first, *graph.node, *last]
    del graph.node[:]
    graph.node.extend(nodes)


def _rename(graph: GraphProto, old: str, new: str) -> None:
    for node in _all_nodes(graph):
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
        for attribute in node.attribute:
            for inner in inner_graphs(attribute):
                for value in inner.output:
                    value.name = new if value.name == old else value.name


def _guarded(
    graph: GraphProto, own: GraphProto, fixed: Mapping[str, NDArray], sizes: Mapping[str, Mapping[int, int]]
) -> GraphProto:
    """Return a graph that answers calls with the fixed values and sizes by `graph`, and all others by the file's
    own."""
    made = GraphProto(name=graph.name)
    kinds = {each.name: each.type.tensor_type.elem_type for each in own.input}
    pairs = [(name, value.astype(helper.tensor_dtype_to_np_dtype(kinds[name]))) for name, value in fixed.items()]
    for name, axes in sizes.items():
        for axis, size in axes.items():
            title = f"{_FIXED}/{name}/{axis}"
            made.initializer.append(numpy_helper.from_array(np.array([axis], np.int64), f"{title}/axis"))
            made.node.append(helper.make_node("Shape", [name], [f"{title}/shape"]))
            made.node.append(helper.make_node("Gather", [f"{title}/shape", f"{title}/axis"], [title]))
            pairs.append((title, np.array([size], np.int64)))
    answers = [_is_equal(made, name, value) for name, value in pairs]
    made.node.append(helper.make_node("Min", answers, [f"{_FIXED}/each"]))
    made.node.append(helper.make_node("Cast", [f"{_FIXED}/each"], [_FIXED], to=TensorProto.BOOL))
    branches = {"then_branch": _branch(graph, own.output, "fixed"), "else_branch": _branch(own, own.output, "other")}
    made.node.append(helper.make_node("If", [_FIXED], [each.name for each in own.output], _FIXED, **branches))
    return made


def _is_equal(graph: GraphProto, name: str, value: NDArray) -> str:
    """Add nodes that compare a tensor with a value, and return the name of their answer: 0 or 1, without axes."""
    title = name if name.startswith(_FIXED) else f"{_FIXED}/{name}"
    graph.initializer.append(numpy_helper.from_array(value, f"{title}/value"))
    graph.node.append(helper.make_node("Equal", [name, f"{title}/value"], [f"{title}/equal"]))
    graph.node.append(helper.make_node("Cast", [f"{title}/equal"], [f"{title}/number"], to=TensorProto.INT32))
    graph.node.append(helper.make_node("ReduceMin", [f"{title}/number"], [f"{title}/all"], keepdims=0))
    return f"{title}/all"


def _branch(graph: GraphProto, outputs: Sequence[ValueInfoProto], title: str) -> GraphProto:
    made = GraphProto.FromString(graph.SerializeToString())
    del made.input[:], made.output[:], made.value_info[:]
    for value in outputs:
        name = f"{title}/{value.name}"
        _rename(made, value.name, name)
        made.node.append(helper.make_node("Identity", [name], [f"{name}/out"]))
        made.output.append(helper.make_tensor_value_info(f"{name}/out", value.type.tensor_type.elem_type, None))
    made.name = title
    return made
