"""The best denoiser that knows only means and covariances of the pictures: what a network must beat.

For data N(m, C) with eigenvalues l_i of C the exact denoiser shrinks each component of the noisy picture by itself,

    x0_hat = m + sum_i l_i / (l_i + k^2) u_i u_i . (x_t / alpha - m),        k = sigma / alpha

(Wiener 1949), and so its error on any picture, averaged over the noise, is a sum over components.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.fft import dctn

LARGEST = 1024  # values in a picture up to which the whole covariance is estimated and decomposed, in seconds
ENOUGH = 4  # pictures for each value of one, at least, without which it would be that of these pictures alone


@dataclass(frozen=True, eq=False)
class Gaussian:
    """N(m, C) fitted to pictures (N, C, H, W)."""

    mean: np.ndarray  # (C, H, W) float64
    values: np.ndarray  # (D,) the eigenvalues of the covariance, D = C H W
    components: Callable[[np.ndarray], np.ndarray]  # pictures less their mean (B, C, H, W) -> (B, D), in the basis of C

    @classmethod
    def fit(cls, x0: np.ndarray) -> "Gaussian":
        """The Gaussian of pictures (N, C, H, W).

        Where there are LARGEST values in a picture or fewer, and ENOUGH pictures, C is their covariance. Else it is
        that of a texture which is the same everywhere and mirrored at the edges: waves of the discrete cosine transform
        are independent, and of each the covariance of the channels is estimated. That takes any size, and 100 pictures.
        """
        mean = x0.mean(0, dtype=np.float64)
        centred, size = x0 - mean, mean.size
        if size <= LARGEST and len(x0) >= ENOUGH * size:
            flat = centred.reshape(len(x0), size)
            values, vectors = np.linalg.eigh(flat.T @ flat / len(x0))
            return cls(mean, values.clip(0), lambda rest: rest.reshape(len(rest), size) @ vectors)
        waves = _waves(centred)  # (N, H, W, C)
        covariance = np.einsum("nhwc,nhwd->hwcd", waves, waves, optimize=True) / len(x0)
        values, turns = np.linalg.eigh(covariance)  # (H, W, C), (H, W, C, C)
        turn = lambda rest: np.einsum("nhwc,hwcd->nhwd", _waves(rest), turns).reshape(len(rest), size)
        return cls(mean, values.clip(0).ravel(), turn)

    def errors(self, x0: np.ndarray, log_snr: np.ndarray) -> np.ndarray:
        """Mean squared error (B,) of the exact denoiser on pictures (B, C, H, W) at log-SNRs (B,), averaged over noise.

        sum_i (1 - g_i)^2 c_i^2 + g_i^2 k^2 over D,    g_i = l_i / (l_i + k^2),    c_i = u_i . (x0 - m)
        """
        k2 = np.exp(-log_snr)[:, None]  # (B, 1)
        kept = self.values / (self.values + k2)  # (B, D)
        return ((1 - kept) ** 2 * self.components(x0 - self.mean) ** 2 + kept**2 * k2).mean(1)


def _waves(pictures: np.ndarray) -> np.ndarray:
    """Amplitudes of cosines, (N, C, H, W) -> (N, H, W, C); an orthonormal transform."""
    return np.moveaxis(dctn(pictures, axes=(2, 3), norm="ortho"), 1, 3)
