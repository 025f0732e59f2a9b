"""A trained student as the file that its device runs, in float or in int8, by onnxruntime's own tools."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx

from sekd.calibration import StreamReader
from sekd.deployment import DeployConfig, DType
from sekd.errors import InputError
from sekd.export import Export, describe, export_onnx
from sekd.int8_weights import store_as_int8
from sekd.models import Enhancer
from sekd.onnx_file import save_onnx

# Operator types computed in integers; of the others, and of GRU, for which there is no kernel, only weights are int8.
# MatMul has kernels but is not among them: in these networks it is a mel filterbank or the like, whose input spans
# more than the 48 dB of eight bits.
COMPUTED: dict[DType, tuple[str, ...]] = {
    "int8_weights": (),
    "int8_dynamic": ("Conv", "LSTM"),
    "int8_static": ("Conv",),
}
Quantiser = Callable[[Path, list[str], DeployConfig, Iterable[np.ndarray]], onnx.ModelProto]


def write_deployed(
    model: Enhancer,
    deploy: DeployConfig,
    path: Path,
    audio: Iterable[np.ndarray] = (),
    *,
    notes: dict[str, str] | None = None,
) -> Export:
    """Writes ``path``, whole or not at all, as ``deploy`` says; in fp32 it is what ``export_onnx`` writes.

    Args:
        audio: noisy training signals (sample,) of 16 kHz; read by int8_static alone, and only as far as it needs.
        notes: join the metadata.

    Raises:
        InputError: the network cannot stream, has gates and is not to be in fp32, or there is no audio to calibrate on.
    """
    if deploy.dtype == "fp32":
        return export_onnx(model, path, notes=notes)
    if model.config.gate is not None:
        raise _needs_float(deploy)
    with tempfile.TemporaryDirectory(prefix="sekd.") as folder:
        source = export_onnx(model, Path(folder) / "fp32.onnx", notes=notes).path
        return quantize_onnx(source, deploy, path, audio)


def quantize_onnx(source: Path, deploy: DeployConfig, path: Path, audio: Iterable[np.ndarray] = ()) -> Export:
    """Writes the form of ``source``, a file of ``export_onnx``, that ``deploy`` says; else as ``write_deployed``."""
    model = onnx.load(source)
    if deploy.dtype != "fp32":
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        if "gates" in metadata:
            raise _needs_float(deploy)
        operators = [name for name in COMPUTED[deploy.dtype] if name not in deploy.exclude]
        if operators:  # the tools take an empty list for all
            model = _COMPUTING[deploy.dtype](source, operators, deploy, audio)
        store_as_int8(model.graph, exclude=deploy.exclude)
        onnx.helper.set_model_props(model, {**metadata, "dtype": deploy.dtype})
        onnx.checker.check_model(model)
    save_onnx(model, path)
    return describe(path)


def _needs_float(deploy: DeployConfig) -> InputError:
    """The tools quantise neither inside branches nor weights that two branches share."""
    return InputError(f'deploy.dtype = "{deploy.dtype}": a network with gates is deployed in "fp32" only')


def _dynamic(source: Path, operators: list[str], deploy: DeployConfig, audio: Iterable[np.ndarray]) -> onnx.ModelProto:
    """Ranges of activations are found at every step. Weights are uint8: onnxruntime 1.20 convolves no int8 ones."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _tools() as made:
        quantize_dynamic(source, made, op_types_to_quantize=operators, weight_type=QuantType.QUInt8)
        return onnx.load(made)


def _static(source: Path, operators: list[str], deploy: DeployConfig, audio: Iterable[np.ndarray]) -> onnx.ModelProto:
    """Ranges of activations are those of the training audio; uint8 with int8 weights is what onnxruntime advises."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    reader = StreamReader(source, audio, seconds=deploy.calibration_s)
    with _tools() as made:
        quantize_static(
            source,
            made,
            reader,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=operators,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(made)


_COMPUTING: dict[DType, Quantiser] = {"int8_dynamic": _dynamic, "int8_static": _static}


@contextmanager
def _tools() -> Iterator[Path]:
    """Where onnxruntime's tools may write. They recommend a preparation that changes nothing here, and do so through
    the root logger, which they would set up."""
    root, before = logging.getLogger(), logging.root.manager.disable
    handler = logging.NullHandler()
    root.addHandler(handler)
    logging.disable(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory(prefix="sekd.") as folder:
            yield Path(folder) / "int8.onnx"
    finally:
        logging.disable(before)
        root.removeHandler(handler)
