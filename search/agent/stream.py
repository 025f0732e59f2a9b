"""A streaming ONNX model as a call without arguments: the next frame in, its states fed back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .signals import signal_frames

FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


def open_session(model: Any, threads: int, *, spinning: bool = False, provider: str = "CPUExecutionProvider") -> Any:
    """The exact file with the options of streaming: no profiler, denormals as zero, one frame at a time.

    Raises:
        ValueError: this onnxruntime lacks the provider, which would otherwise be replaced without a word.
    """
    import onnxruntime as ort

    if provider not in ort.get_available_providers():
        raise ValueError(f"this onnxruntime has no {provider}, only {', '.join(ort.get_available_providers())}")
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.enable_profiling = False
    options.log_severity_level = 4
    for pool in ("intra_op", "inter_op"):
        options.add_session_config_entry(f"session.{pool}.allow_spinning", str(int(spinning)))
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    return ort.InferenceSession(model, options, providers=[provider])


class Stream:
    """Feeds real audio frame by frame, for ever."""

    def __init__(self, session: Any) -> None:
        inputs, outputs = session.get_inputs(), session.get_outputs()
        check_contract(inputs, outputs)
        self.metadata: dict[str, str] = session.get_modelmeta().custom_metadata_map
        signal, *states = inputs
        frames = signal_frames(signal.shape, self.metadata).astype(FLOATS[signal.type])
        self._frames = self._forever(frames)
        self._session, self._signal = session, signal.name
        self._names = [state.name for state in states]
        self._states = [np.zeros(state.shape, FLOATS[state.type]) for state in states]

    def __call__(self) -> None:
        feed = dict(zip(self._names, self._states))
        feed[self._signal] = next(self._frames)
        self._states = self._session.run(None, feed)[1:]

    @staticmethod
    def _forever(frames: np.ndarray) -> Iterator[np.ndarray]:
        contiguous = [np.ascontiguousarray(frame) for frame in frames]
        while True:
            yield from contiguous


def check_contract(inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
    """Raises ValueError unless all is static and float, and states pair by order and shape."""
    for value in [*inputs, *outputs]:
        if value.type not in FLOATS:
            raise ValueError(f"'{value.name}' is {value.type}, not a float tensor")
    for value in inputs:
        if not all(isinstance(size, int) for size in value.shape):
            raise ValueError(f"input '{value.name}' has the dynamic shape {value.shape}")
    if not inputs or len(inputs) != len(outputs):
        raise ValueError(f"{len(inputs)} inputs and {len(outputs)} outputs: states must pair in order")
    for before, after in zip(inputs[1:], outputs[1:]):
        if before.shape != after.shape or before.type != after.type:
            raise ValueError(f"state '{before.name}' {before.shape} comes back as '{after.name}' {after.shape}")
