"""silero-vad: calls with the state of the call before, and how two files agree when each carries its own state."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from nacdeploy.base.latency import Subject

RATE, N_CHUNK, N_CONTEXT = 16_000, 512, 64
N_CHUNKS = 100


def audio(n_chunks: int, seed: int) -> NDArray[np.float32]:
    """Return made-up speech (n_chunks * 512,) at 16 kHz: syllables of moving pitch and formants, pauses, noise."""
    draw, n = np.random.default_rng(seed), n_chunks * N_CHUNK
    sound = draw.normal(0, 0.003, n)
    at = 0
    while at < n:
        length = min(int(draw.uniform(0.08, 0.4) * RATE), n - at)
        if draw.random() < 0.7:
            sound[at : at + length] += _syllable(draw, length)
        at += length + int(draw.uniform(0, 0.15) * RATE)
    return np.clip(sound, -1, 1).astype(np.float32)


def _syllable(draw: np.random.Generator, length: int) -> NDArray[Any]:
    t = np.arange(length) / RATE
    pitch = draw.uniform(90, 240) * (1 + draw.uniform(-0.2, 0.2) * t / max(t[-1], 1e-3))
    phase, formants = 2 * np.pi * np.cumsum(pitch) / RATE, draw.uniform((300, 900, 2000), (900, 2000, 3200))
    harmonics = (k * np.exp(-min(abs(formants - k * pitch.mean())) / 180) * np.sin(k * phase) / k for k in range(1, 24))
    return draw.uniform(0.05, 0.3) * np.sin(np.pi * np.arange(length) / length) ** 0.5 * sum(harmonics)


def carried(file: Path, sound: NDArray[np.float32]) -> tuple[dict[str, NDArray[Any]], NDArray[Any]]:
    """Return the inputs of every call by name, and the answers (n_chunks,), the state carried from call to call."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    state, context = np.zeros((2, 1, 128), np.float32), np.zeros(N_CONTEXT, np.float32)
    given: dict[str, list[Any]] = {"input": [], "state": []}
    answers = []
    for chunk in sound.reshape(-1, N_CHUNK):
        x = np.concatenate([context, chunk])[None]
        given["input"].append(x[0])
        given["state"].append(state)
        feeds = {"input": x, "state": state, "sr": np.array(RATE, np.int64)}
        answer, state = session.run(None, feeds)
        answers.append(float(answer[0, 0]))
        context = chunk[-N_CONTEXT:]
    return {name: np.stack(each) for name, each in given.items()}, np.array(answers)


def subject(file: Path) -> Subject:
    """Return a call of a file on one thread, to be timed."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    calls, _ = carried(file, audio(20, seed=2))
    feeds = {"input": calls["input"][-1:], "state": calls["state"][-1], "sr": np.array(RATE, np.int64)}
    return Subject(lambda: session.run(None, feeds))


def said(file: Path, reference: Path) -> tuple[float, str]:
    """Return how the answers of a file agree with those of its reference over 100 chunks, each with its own state: in
    decibels, and the chunks decided otherwise."""
    sound = audio(N_CHUNKS, seed=1)
    found, wanted = (carried(each, sound)[1] for each in (file, reference))
    noise, signal = float(((found - wanted) ** 2).sum()), float((wanted**2).sum())
    n_other = int(((found > 0.5) != (wanted > 0.5)).sum())
    return 10 * np.log10(signal / max(noise, 1e-30)), f"{n_other} chunks decided otherwise"
