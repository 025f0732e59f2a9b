"""One evaluation of a consistency function as an ONNX file, and the program that takes as many as it is told to."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from sekd.export import Export, describe
from sekd.generative.learning import OnPath
from sekd.models import ConsistencyNet, Enhancer
from sekd.models.base import SAMPLE_RATE
from sekd.models.settled import settled
from sekd.onnx_file import save_onnx
from sekd.onnx_trace import traced

FORMAT_VERSION = 1
FILE, RUNNER = "evaluation.onnx", "run_evaluations.py"  # as they lie beside model.onnx


class _Evaluation(nn.Module):
    """What a network on a path says at ``(x, noisy)`` and a time ``(1,)``."""

    def __init__(self, model: OnPath) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        return self.model.evaluate(x, noisy, t[:, None, None, None])


def write_evaluation(model: Enhancer, folder: Path) -> bool:
    """Writes the file and its runner to ``folder`` for a consistency function; other networks have neither."""
    if not isinstance(model, ConsistencyNet):
        return False
    export_evaluation(model, folder / FILE)
    shutil.copyfile(Path(__file__).with_name("evaluation_runner.py"), folder / RUNNER)
    return True


def export_evaluation(model: ConsistencyNet, path: Path) -> Export:
    """Writes ``path``, whole or not at all, with all that ``sekd.evaluation_runner`` needs in its metadata."""
    graph = one_evaluation(model, model.config.segment_frames)
    onnx.helper.set_model_props(graph, _metadata(model))
    onnx.checker.check_model(graph)
    save_onnx(graph, path)
    return describe(path)


def one_evaluation(model: OnPath, frames: int) -> onnx.ModelProto:
    """``x`` and ``noisy`` ``[1, 2, freq, frame]`` and the time ``t`` ``[1]`` to ``clean``: a denoiser's, or a
    consistency function's. What depends on the time is computed in the graph."""
    assert isinstance(model, nn.Module)
    shape = (1, 2, model.spectra.config.freqs, frames)
    examples = (torch.zeros(shape), torch.zeros(shape), torch.ones(1))
    return traced(_Evaluation(settled(model.eval())), examples, ["x", "noisy", "t"], ["clean"])


def _metadata(model: ConsistencyNet) -> dict[str, str]:
    config = model.config
    told = {
        "contract": "evaluation",
        "version": FORMAT_VERSION,
        "sample_rate": SAMPLE_RATE,
        **config.spectra.model_dump(),
        **config.path.model_dump(),
        "segment_frames": config.segment_frames,
        "overlap_hops": config.overlap_hops,
        **{knob: getattr(config, knob) for knob in config.knobs},
    }
    return {key: str(value) for key, value in told.items()}
