"""Speak sentences with espeak-ng in a child process, so that a crash of the C library is one line of error.

``speak`` is the parent's side; the child is ``python -m sekd.speak REQUESTS.json SPEECH.npz``.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sekd.errors import InputError, nearest

SPEECH_HZ = 22050
TIMEOUT_S = 120

# From speak_lib.h.
_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_POSITION_IS_CHARACTER = 1
_TEXT_IS_UTF8 = 1
# Of 100, the default, at which many voices clip inside the library.
_QUIET = 40
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Utterance(NamedTuple):
    """What to say and how; ``voice`` is language+variant, pitch and pitch_range run from 0 to 99."""

    voice: str
    text: str
    rate_wpm: int = 160
    pitch: int = 50
    pitch_range: int = 50
    seed: int = 0


def speak(utterances: Sequence[Utterance]) -> list[np.ndarray]:
    """16-bit waveforms (sample,) at ``SPEECH_HZ``, one per utterance, spoken by one child process.

    The same sequence gives the same samples; one utterance depends a little on those before it.

    Raises:
        InputError: a voice is unknown, or the child failed, crashed or hung.
    """
    with tempfile.TemporaryDirectory(prefix="sekd-speak-") as scratch:
        requests, speech = Path(scratch, "requests.json"), Path(scratch, "speech.npz")
        requests.write_text(json.dumps(list(utterances)), encoding="utf-8")
        _run_child([sys.executable, "-m", "sekd.speak", str(requests), str(speech)])
        with np.load(speech) as waves:
            return [waves[str(index)] for index in range(len(utterances))]


def _run_child(command: list[str]) -> None:
    """Run the child; whatever goes wrong in it is one line of InputError."""
    try:
        # Bytes that are not UTF-8 in what the C library prints must not become an error of their own.
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise InputError(f"speech synthesis: espeak-ng gave no answer within {TIMEOUT_S} s") from None
    if done.returncode < 0:
        raise InputError(f"speech synthesis: espeak-ng crashed ({_signal_name(-done.returncode)})")
    if done.returncode > 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"speech synthesis: {last}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class _Espeak:
    """The C library, ready to speak; one per process."""

    def __init__(self) -> None:
        import espeakng_loader

        library, data = espeakng_loader.get_library_path(), Path(espeakng_loader.get_data_path())
        try:
            self._lib = ctypes.CDLL(library)
        except OSError as error:
            raise InputError(f"espeak-ng does not load: {error}") from error
        # The library keeps its data folder in a buffer of 160 bytes: a relative path always fits.
        os.chdir(data.parent)
        rate_hz = self._lib.espeak_Initialize(_OUTPUT_SYNCHRONOUS, 0, b".", _INITIALIZE_DONT_EXIT)
        if rate_hz != SPEECH_HZ:
            raise InputError(f"espeak-ng does not start with its data in {data} (answer {rate_hz})")
        self._variants = {path.name for path in (data / "voices" / "!v").iterdir()}
        self._chunks: list[np.ndarray] = []
        # Kept as an attribute: the C library holds no reference that Python knows of.
        self._callback = _CALLBACK(self._collect)
        self._lib.espeak_SetSynthCallback(self._callback)

    def _collect(self, wave, count: int, events) -> int:
        if wave and count > 0:
            self._chunks.append(np.ctypeslib.as_array(wave, (count,)).copy())
        return 0  # go on

    def say(self, utterance: Utterance) -> np.ndarray:
        """The 16-bit waveform (sample,) of one utterance."""
        self._set_voice(utterance.voice)
        for parameter, value in (
            (_RATE, utterance.rate_wpm),
            (_VOLUME, _QUIET),
            (_PITCH, utterance.pitch),
            (_RANGE, utterance.pitch_range),
        ):
            self._lib.espeak_SetParameter(parameter, value, 0)
        # Breath and flutter are random, seeded by the clock unless told otherwise.
        self._lib.espeak_ng_SetRandSeed(ctypes.c_long(utterance.seed))
        self._chunks.clear()
        text = utterance.text.encode()
        size = ctypes.c_size_t(len(text) + 1)
        status = self._lib.espeak_Synth(text, size, 0, _POSITION_IS_CHARACTER, 0, _TEXT_IS_UTF8, None, None)
        if status != 0 or not self._chunks:
            raise InputError(f"espeak-ng said nothing for {utterance.text!r} (status {status})")
        return np.concatenate(self._chunks)

    def _set_voice(self, voice: str) -> None:
        # The library takes an unknown variant for no variant at all: look for ourselves.
        language, _, variant = voice.partition("+")
        if variant and variant not in self._variants:
            raise InputError(f"unknown voice variant {variant!r} in {voice!r}{nearest(variant, self._variants)}")
        if self._lib.espeak_SetVoiceByName(voice.encode()) != 0:
            raise InputError(f"unknown language {language!r} in voice {voice!r}")


def main(arguments: Sequence[str]) -> int:
    """The child: speak the requests of one JSON file into one npz file."""
    requests, speech = (Path(argument).resolve() for argument in arguments)
    utterances = [Utterance(*fields) for fields in json.loads(requests.read_text(encoding="utf-8"))]
    try:
        espeak = _Espeak()
        waves = {str(index): espeak.say(utterance) for index, utterance in enumerate(utterances)}
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    np.savez(speech, **waves)  # type: ignore[arg-type]
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
