"""Figures of signals and of the network: its architecture, sample windows, and what it makes of each sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.patches import FancyArrow, Rectangle

from tscc_stream.learn import canvas
from tscc_stream.learn.dataset import DataSet
from tscc_stream.learn.examples import CLEAR, Example, clarity, events_of, first_motions, near_and_far
from tscc_stream.learn.features import transform_of
from tscc_stream.learn.latent import latent_over_time, ricker_above_noise
from tscc_stream.learn.network import KERNEL, Encoder
from tscc_stream.messages import AnyArray, Float32Array
from tscc_stream.package import PackageSpec
from tscc_stream.stages.extract import normalise

RICKER_DECIBEL = -5.0
_FLOOR_DECIBEL = -50.0
_UNSEEN = 1e-5
_SEGMENT = 32  # samples; shorter than that of the features, to show when phases arrive


def architecture(encoder: Encoder, spec: PackageSpec, folder: Path) -> str:
    """The network as it is: a box for each layer, as high as it has channels; read off its own dimensions."""
    boxes = _boxes(encoder, spec)
    figure = canvas.new_figure(1.02 * len(boxes) + 0.4, 4.4)
    axes = figure.add_subplot()
    tallest = max(height for _, height, _ in boxes)
    for at, (text, height, colour) in enumerate(boxes):
        size = 0.3 + 1.7 * height / tallest
        axes.add_patch(Rectangle((at - 0.32, -size / 2), 0.64, size, facecolor=colour, edgecolor="black", alpha=0.55))
        axes.text(at, -1.12, text, ha="center", va="top", fontsize=7.5)
        axes.text(at, size / 2 + 0.04, str(height), ha="center", va="bottom", fontsize=8)
        if at:
            axes.add_patch(FancyArrow(at - 0.67, 0, 0.26, 0, width=0.012, head_width=0.07, head_length=0.08, color="k"))
    parameters = sum(weight.numel() for weight in encoder.parameters())
    axes.set_title(
        f"{spec.name}: {parameters:,} parameters; box height and number: channels; "
        f"one sample sees {_reach(encoder)} samples to either side",
        fontsize=9,
    )
    axes.set(xlim=(-0.6, len(boxes) - 0.4), ylim=(-1.95, 1.25))
    axes.axis("off")
    return canvas.save(figure, folder, "architecture")


def _boxes(encoder: Encoder, spec: PackageSpec) -> list[tuple[str, int, str]]:
    """(text, channels, colour), from input to clusters."""
    channels, representation, hidden, depth = encoder.shape
    duration = spec.samples / spec.sample_rate_hz
    boxes = [
        (f"window\n{spec.samples} samples\n{duration:g} s\n{channels} channel(s)", channels, canvas.COLOURS[7]),
        (f"linear\n{channels} to {hidden}", hidden, canvas.COLOURS[4]),
    ]
    for number in range(depth + 1):
        width = representation if number == depth else hidden
        text = f"residual {number + 1}\n2 x (GELU,\nconv {KERNEL})\ndilation\n{2**number}"
        boxes.append((text, width, canvas.COLOURS[0] if number < depth else canvas.COLOURS[5]))
    boxes.append((f"maximum\nover time\nR: {representation}", representation, canvas.COLOURS[2]))
    text = f"{spec.clusters} clusters\nfuzzy,\nm = {spec.fuzzifier:g}\n{spec.distance}"
    return [*boxes, (text, spec.clusters, canvas.COLOURS[1])]


def _reach(encoder: Encoder) -> int:
    """Samples to either side: two convolutions in each block."""
    depth = encoder.shape[3]
    return sum(2 * (KERNEL // 2) * 2**number for number in range(depth + 1))


def samples(data: DataSet, onset: int, folder: Path) -> str:
    """Two polarities of first motion; a local and a distant event with their short-time Fourier transforms.

    Where the data say which windows are events, the examples are chosen among these alone.
    """
    shown = data.take(events_of(data))
    first = shown.x[:, :, 0]
    motions, events = first_motions(first, onset, shown.sid), near_and_far(first, onset, shown.sid)
    figure = canvas.new_figure(10.0, 8.0)
    grid = figure.subplots(3, 2, height_ratios=(1.0, 0.8, 1.2))
    for column, (motion, event) in enumerate(zip(motions, events, strict=True)):
        _draw_motion(grid[0, column], motion, data.sample_rate_hz)
        _draw_waveform(grid[1, column], event, data.sample_rate_hz)
        _draw_spectrogram(grid[2, column], event, data.sample_rate_hz)
    return canvas.save(figure, folder, "samples")


def _draw_motion(axes: Axes, example: Example, rate_hz: float) -> None:
    low, high = max(0, example.begin - 25), min(len(example.waveform), example.begin + 35)
    axes.plot((np.arange(low, high) - example.begin) / rate_hz, example.waveform[low:high], "k.-", lw=0.8, ms=3)
    axes.axvline(0.0, color=canvas.COLOURS[1], lw=1.0, label="signal begins")
    axes.axhline(0.0, color="0.7", lw=0.6)
    axes.set_title(example.title, fontsize=10)
    axes.set(xlabel="time after first motion (s)", ylabel=_unit(example))
    axes.legend(fontsize=8, loc="upper left")


def _draw_waveform(axes: Axes, example: Example, rate_hz: float) -> None:
    seconds = np.arange(len(example.waveform)) / rate_hz
    axes.plot(seconds, example.waveform, "k", lw=0.6)
    axes.axvline(example.begin / rate_hz, color=canvas.COLOURS[1], lw=1.0)
    axes.set_title(example.title, fontsize=10)
    axes.set(xlim=(0.0, seconds[-1]), ylabel=_unit(example))


def _unit(example: Example) -> str:
    return "amplitude (no unit)" if example.synthetic else "amplitude (counts)"


def _draw_spectrogram(axes: Axes, example: Example, rate_hz: float) -> None:
    transform = transform_of(len(example.waveform), rate_hz, _SEGMENT)
    power = np.abs(transform.stft(example.waveform, padding="even")) ** 2
    seconds = transform.t(len(example.waveform))
    decibel = np.maximum(10.0 * np.log10(power / power.max() + _UNSEEN), _FLOOR_DECIBEL)
    image = axes.pcolormesh(seconds, transform.f, decibel, cmap=canvas.HEAT, shading="nearest")
    axes.set(xlim=(0.0, len(example.waveform) / rate_hz), xlabel="time in window (s)", ylabel="frequency (Hz)")
    axes.figure.colorbar(image, ax=axes, label="power (dB re peak)", location="bottom", aspect=40)


def latent(encoder: Encoder, spec: PackageSpec, data: DataSet, folder: Path, seed: int) -> str:
    """What the encoder makes of each sample, beside the waveform: Ricker wavelet at -5 dB, noise, two real windows."""
    titles, windows = _shown(spec, data, seed)
    maps = latent_over_time(encoder, normalise(windows, spec.normalisation))
    maps = (maps - maps.mean(axis=(0, 1))) / np.maximum(maps.std(axis=(0, 1)), 1e-9)
    figure = canvas.new_figure(12.5, 5.2)
    grid = figure.subplots(2, len(titles), height_ratios=(1.0, 2.2), sharex=True)
    seconds = np.arange(spec.samples) / spec.sample_rate_hz
    for column, (title, window, values) in enumerate(zip(titles, windows, maps, strict=True)):
        grid[0, column].plot(seconds, window[:, 0], "k", lw=0.6)
        grid[0, column].set_title(title, fontsize=9)
        image = _draw_map(grid[1, column], seconds, values)
    grid[0, 0].plot(seconds, _wavelet(spec), color=canvas.COLOURS[1], lw=1.2)
    grid[0, 0].set_ylabel("amplitude (noise = 1)", fontsize=8)
    grid[0, 2].set_ylabel("amplitude (counts)", fontsize=8)
    grid[1, 0].set_ylabel("dimension of the representation")
    figure.colorbar(image, ax=list(grid[1]), label="representation\n(standard deviations)")
    return canvas.save(figure, folder, "latent")


def _draw_map(axes: Axes, seconds: AnyArray, values: Float32Array) -> QuadMesh:
    image = axes.pcolormesh(
        seconds, np.arange(values.shape[1]), values.T, cmap=canvas.HEAT, shading="nearest", vmin=-3.0, vmax=3.0
    )
    axes.set_xlabel("time in window (s)")
    return image


def _wavelet(spec: PackageSpec) -> Float32Array:
    """In the middle of the model's band."""
    peak = float(np.sqrt(np.prod(spec.band_hz))) / spec.sample_rate_hz
    return ricker_above_noise(spec.samples, spec.onset_sample, peak, RICKER_DECIBEL)


def _shown(spec: PackageSpec, data: DataSet, seed: int) -> tuple[list[str], Float32Array]:
    """Titles and windows [4, samples, channels]. The real ones: the clearest, and the one that is just clear."""
    noise = np.random.default_rng(seed).standard_normal((2, spec.samples, spec.channels)).astype(np.float32)
    clear = clarity(data.x[:, :, 0], spec.onset_sample)
    strong, faint = int(np.argmax(clear)), int(np.argmin(np.abs(np.log(np.maximum(clear, 1e-12) / CLEAR))))
    titles = [f"Ricker, {RICKER_DECIBEL:g} dB in white noise", "white noise"]
    titles += [f"{data.sid[row]}, peak over noise {clear[row]:.0f}" for row in (strong, faint)]
    return titles, np.stack([noise[0] + _wavelet(spec)[:, None], noise[1], data.x[strong], data.x[faint]])
