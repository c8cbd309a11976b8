"""Prepare: takes out of a `.tflite` what no node reads: names, ranges, metadata, descriptions, signatures, needless buffers.

What counts is the size in flash, where the file is read in place; buffers therefore stay 16-byte aligned.
"""

from typing import Any

from gatewayd.core import tflite
from gatewayd.errors import CascadeError, MissingPackageError

ALIGNMENT = 16


def minify(model: bytes) -> bytes:
    """A smaller file of the same computation; `node_image` compares what the two compute. Raises CascadeError, MissingPackageError."""
    return pack(stripped(model))


def stripped(model: bytes) -> Any:
    """The model, less what no node reads, as the schema's ModelT. Raises CascadeError, MissingPackageError."""
    tflite.operators(model)  # what follows trusts the file
    schema = _schema()
    try:
        graph = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0))
    except Exception as error:  # flatbuffers raises whatever comes its way
        raise CascadeError(f"not a .tflite model: {error}") from error
    graph.description = graph.metadata = graph.metadataBuffer = graph.signatureDefs = None
    for subgraph in graph.subgraphs:
        subgraph.name = None
        for tensor in subgraph.tensors:
            _strip(tensor)
    _share_codes(graph)
    _share_buffers(graph, schema.BufferT())
    return graph


def pack(graph: Any) -> bytes:
    """The file of a ModelT. Raises CascadeError, MissingPackageError."""
    import flatbuffers  # type: ignore[import-untyped]  # noqa: PLC0415 -- optional

    for buffer in graph.buffers:
        if buffer.data is not None:
            buffer.Pack = _aligned_packer(bytes(buffer.data))
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(graph.Pack(builder), file_identifier=b"TFL3")
    model = bytes(builder.Output())
    tflite.operators(model)
    return model


def add_metadata(graph: Any, name: str, content: bytes) -> None:
    """A buffer of its own behind all others, and an entry that names it."""
    schema = _schema()
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = content
    entry.name, entry.buffer = name, len(graph.buffers)
    graph.buffers.append(buffer)
    graph.metadata = [*(graph.metadata or ()), entry]


def _schema() -> Any:
    try:
        from ai_edge_litert import schema_py_generated  # noqa: PLC0415 -- optional
    except ImportError as error:
        raise MissingPackageError("ai-edge-litert", "build") from error
    return schema_py_generated


def _strip(tensor: Any) -> None:
    """Shared names of variables are part of the operators and stay: they say which variable is meant."""
    tensor.name = tensor.shapeSignature = None
    if tensor.quantization is not None:
        tensor.quantization.min = tensor.quantization.max = None
        if tensor.quantization.scale is None:  # neither quantised nor, now, anything else
            tensor.quantization = None


def _share_codes(graph: Any) -> None:
    """Each operator code once, only those that are used, in an order that is not that of the operators."""

    def key(operator: Any) -> tuple[Any, ...]:
        code = graph.operatorCodes[operator.opcodeIndex]
        return code.builtinCode, code.deprecatedBuiltinCode, code.customCode or b"", code.version

    operators = [operator for subgraph in graph.subgraphs for operator in subgraph.operators or ()]
    codes = {key(operator): graph.operatorCodes[operator.opcodeIndex] for operator in operators}
    numbers = {code: number for number, code in enumerate(sorted(codes))}
    for operator in operators:
        operator.opcodeIndex = numbers[key(operator)]
    graph.operatorCodes = [codes[code] for code in numbers]


def _share_buffers(graph: Any, empty: Any) -> None:
    """Equal contents once; buffer 0 is the empty one by convention."""
    kept, numbers = [empty], {b"": 0}
    for subgraph in graph.subgraphs:
        for tensor in subgraph.tensors:
            buffer = graph.buffers[tensor.buffer]
            content = b"" if buffer.data is None else bytes(buffer.data)
            if buffer.offset > 1:
                raise CascadeError("the model keeps buffers outside its flatbuffer")
            if content not in numbers:
                numbers[content] = len(kept)
                kept.append(buffer)
            tensor.buffer = numbers[content]
    graph.buffers = kept


def _aligned_packer(content: bytes) -> Any:
    """In place of BufferT.Pack, which knows nothing of the schema's `force_align`."""
    schema = _schema()

    def pack(builder: Any) -> Any:
        builder.StartVector(1, len(content), ALIGNMENT)
        builder.head -= len(content)
        builder.Bytes[builder.head : builder.head + len(content)] = content
        data = builder.EndVector()
        schema.BufferStart(builder)
        schema.BufferAddData(builder, data)
        return schema.BufferEnd(builder)

    return pack
