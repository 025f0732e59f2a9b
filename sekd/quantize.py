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
from sekd.deployment import DeployConfig
from sekd.export import Export, describe, export_onnx
from sekd.int8_weights import store_as_int8
from sekd.models import Enhancer
from sekd.onnx_file import save_onnx

Quantiser = Callable[[Path, DeployConfig, Path, Iterable[np.ndarray]], None]  # from a float file to another file


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
        InputError: the network cannot stream, or there is no audio to calibrate on.
    """
    if deploy.dtype == "fp32":
        return export_onnx(model, path, notes=notes)
    with tempfile.TemporaryDirectory(prefix="sekd.") as folder:
        source = export_onnx(model, Path(folder) / "fp32.onnx", notes=notes).path
        return quantize_onnx(source, deploy, path, audio)


def quantize_onnx(source: Path, deploy: DeployConfig, path: Path, audio: Iterable[np.ndarray] = ()) -> Export:
    """Writes the int8 form of ``source``, a file of ``export_onnx``; arguments and errors are ``write_deployed``'s."""
    with tempfile.TemporaryDirectory(prefix="sekd.") as folder:
        made = Path(folder) / "int8.onnx"
        with _quiet():
            _QUANTISERS[deploy.dtype](source, deploy, made, audio)
        model = onnx.load(made)
    store_as_int8(model.graph, exclude=deploy.exclude)  # what the tools have no integer kernel for
    metadata = {entry.key: entry.value for entry in onnx.load(source).metadata_props}
    onnx.helper.set_model_props(model, {**metadata, "dtype": deploy.dtype})
    onnx.checker.check_model(model)
    save_onnx(model, path)
    return describe(path)


def _float(source: Path, deploy: DeployConfig, path: Path, audio: Iterable[np.ndarray]) -> None:
    path.write_bytes(source.read_bytes())


def _dynamic(source: Path, deploy: DeployConfig, path: Path, audio: Iterable[np.ndarray]) -> None:
    """Ranges of activations are found at every step. Weights are uint8: ConvInteger has no kernel for int8 ones."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    operators = _computed(("Conv", "LSTM"), deploy)
    if operators:
        quantize_dynamic(source, path, op_types_to_quantize=operators, weight_type=QuantType.QUInt8)
    else:  # an empty list would mean all
        _float(source, deploy, path, audio)


def _static(source: Path, deploy: DeployConfig, path: Path, audio: Iterable[np.ndarray]) -> None:
    """Ranges of activations are those of the training audio."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    reader = StreamReader(source, audio, seconds=deploy.calibration_s)
    operators = _computed(("Conv",), deploy)
    if not operators:
        return _float(source, deploy, path, audio)
    quantize_static(
        source,
        path,
        reader,
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=operators,
        per_channel=True,
        activation_type=QuantType.QUInt8,  # with int8 weights the pair for which every processor has a kernel
        weight_type=QuantType.QInt8,
    )


_QUANTISERS: dict[str, Quantiser] = {
    "fp32": _float,
    "int8_weights": _float,
    "int8_dynamic": _dynamic,
    "int8_static": _static,
}


def _computed(operators: tuple[str, ...], deploy: DeployConfig) -> list[str]:
    """Operator types to compute in integers.

    MatMul is not among them, though there is a kernel: in these networks it is a mel filterbank or the like, whose
    input spans more than the 48 dB of eight bits.
    """
    return [name for name in operators if name not in deploy.exclude]


@contextmanager
def _quiet() -> Iterator[None]:
    """The tools recommend a preparation that changes nothing here, through the root logger, which they set up."""
    root, before = logging.getLogger(), logging.root.manager.disable
    handler = logging.NullHandler()
    root.addHandler(handler)
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
        root.removeHandler(handler)
