"""What every model is judged against: clusterings that nobody had to train, and a small autoencoder.

None of them sees a label. All are fitted on the very windows that are judged, which favours them a little.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture

from tscc_stream.learn.autoencoder import embedded_clusters
from tscc_stream.learn.dataset import Int64Array
from tscc_stream.learn.features import log_kurtosis, log_spectrogram, series
from tscc_stream.learn.network import Encoder, make_encoder, pool
from tscc_stream.messages import Float32Array, Float64Array

BATCH = 64
STARTS = 10
_REGULARISATION = 1e-4  # of unit variance, added to a mixture's covariances


@dataclass(frozen=True, slots=True, eq=False)
class Clustering:
    """A method's features [n, F], as the comparison panel draws them, and its clusters [n]."""

    title: str
    features: Float64Array
    group: Int64Array
    clusters: int


def kmeans(features: Float64Array, clusters: int, seed: int) -> Int64Array:
    """Cluster of each row [n]."""
    found = KMeans(clusters, n_init=STARTS, random_state=seed).fit_predict(features)
    return np.asarray(found, np.int64)


def mixture(features: Float64Array, clusters: int, seed: int) -> Int64Array:
    """Component of each row [n] in a mixture of Gaussians with full covariances, on standardised features."""
    scale = np.maximum(features.std(axis=0), 1e-12)
    model = GaussianMixture(clusters, n_init=STARTS, reg_covar=_REGULARISATION, random_state=seed, max_iter=500)
    return np.asarray(model.fit_predict((features - features.mean(axis=0)) / scale), np.int64)


def untrained_representation(normalised: Float32Array, trained: Encoder, seed: int) -> Float64Array:
    """[n, D] out of an encoder of the same architecture whose weights are as they were drawn."""
    encoder = make_encoder(seed, *trained.shape).eval()
    with torch.inference_mode():
        parts = [pool(encoder(part)) for part in torch.split(torch.from_numpy(normalised), BATCH)]
    return torch.cat(parts).numpy().astype(np.float64)


def baselines(
    x: Float32Array, normalised: Float32Array, trained: Encoder, clusters: int, seed: int
) -> dict[str, Clustering]:
    """Every baseline for windows x [n, samples, channels], of which `normalised` is what the encoder sees."""
    raw, spectra, kurtosis = series(x), log_spectrogram(x), log_kurtosis(x)
    untrained = untrained_representation(normalised, trained, seed)
    latent, drawn = embedded_clusters(spectra, clusters, seed)

    def made(title: str, features: Float64Array, fit: Callable[[Float64Array, int, int], Int64Array]) -> Clustering:
        return Clustering(title, features, fit(features, clusters, seed), clusters)

    return {
        "kmeans_raw": made("KMeans, raw windows", raw, kmeans),
        "kmeans_logspec": made("KMeans, log-spectrograms", spectra, kmeans),
        "gmm_log_kurtosis": made("log kurtosis, Gaussian mixture", kurtosis, mixture),
        "kmeans_untrained": made("untrained encoder, KMeans", untrained, kmeans),
        "gmm_untrained": made("untrained encoder, Gaussian mixture", untrained, mixture),
        "dec_logspec": Clustering("autoencoder (DEC), log-spectrograms", latent, drawn, clusters),
    }
