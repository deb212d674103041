"""GPTQ: integers of a weight, each column's rounding error made good by the columns after it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas, lapack

from sdc.passes.quantisers.rtn import fit_scales, rounded

__all__ = ["Moments", "align_to_spikes", "inverse_factor", "quantise_gptq", "token_weights"]

DAMP = 0.1  # of the mean diagonal; GPTQ (arXiv 2210.17323, section 3.3) has 0.01, on 25 times as many tokens
BLOCK = 64  # columns whose updates of the rest are applied together; GPTQ, section 3.3, step 2
ROWS = 4096  # rows worked on together: their block stays in the cache


@dataclass(frozen=True)
class Moments:
    """Second moments of a linear's inputs over the calibration tokens.

    Attributes:
        spikes: [K, K] float32, sum of s s^T, where s is the dequantised spiking input.
        cross: [K, K] float32, sum of x s^T, where x is the input of the float model.
    """

    spikes: NDArray
    cross: NDArray

    @staticmethod
    def of(x: NDArray, spikes: NDArray, counts: NDArray | None = None) -> Moments:
        """From inputs [T, K] of the float model and of the spiking one; ``counts`` [T]: what each token's
        error counts, all alike where it is None."""
        root = np.ones(1, np.float32) if counts is None else np.sqrt(counts)[:, None].astype(np.float32)
        some = np.ascontiguousarray(spikes, np.float32) * root
        lower = blas.ssyrk(1.0, some.T, lower=1)  # half of a product, since it is symmetric
        some *= root
        return Moments(np.tril(lower) + np.tril(lower, -1).T, x.T @ some)


def token_weights(outputs: NDArray) -> NDArray:
    """What an error of each token counts: 1 / (|y|^2 + its median), over its mean; [T] float32.

    So errors count relative to the token's own output. The first tokens of a text can have outputs many times
    larger than all others (attention sinks, arXiv 2309.17453), and would decide alone.

    Args:
        outputs: y [T, N]; a sample of the outputs does.
    """
    energy = np.einsum("tn,tn->t", outputs, outputs)
    counts = 1 / (energy + max(float(np.median(energy)), 1e-30))
    return (counts / counts.mean()).astype(np.float32)


def inverse_factor(hessian: NDArray, damp: float = DAMP) -> NDArray:
    """U, upper triangular, with U^T U = (hessian + damp * mean diagonal * I)^-1; float64 [K, K].

    Channels that never fire get the identity: they hold no information, and damping alone would let them blow
    up. With J H J = L L^T, where J reverses the order, U = J L^-1 J.

    Raises:
        ValueError: The matrix is not positive definite even so (it holds NaN, or is far from symmetric).
    """
    wide = np.ascontiguousarray(hessian[::-1, ::-1], np.float64)
    diagonal = wide.diagonal().copy()
    dead = diagonal <= 0
    mean = float(diagonal[~dead].mean()) if not dead.all() else 1.0
    wide[np.diag_indices_from(wide)] = np.where(dead, mean, diagonal) + damp * mean
    lower, failed = lapack.dpotrf(wide.T, lower=1, clean=1, overwrite_a=1)  # .T: Fortran order, no copy
    if failed:
        raise ValueError(f"the Hessian is not positive definite (leading minor {failed})")
    factor, failed = lapack.dtrtri(lower, lower=1, overwrite_c=1)
    if failed:
        raise ValueError(f"the Hessian's factor is singular at column {failed}")
    return np.ascontiguousarray(factor[::-1, ::-1])


def align_to_spikes(weight: NDArray, moments: Moments, ridge: float, strength: float) -> NDArray:
    """The weight that makes most of the spiking inputs: W + strength * W (C - H) (H + ridge m I)^-1.

    The ridge solution, around W, of min ||W X - W' S||^2: the rounding of activations, and what the layers
    before lost, is made good as far as linear algebra can (GPTAQ, arXiv 2504.02692, states the same problem).

    Args:
        weight: [N, K] float32.
        ridge: Pull towards W, a share of m, the mean squared input.
        strength: 0 leaves W as it is, 1 is the full solution.
    """
    if strength == 0:
        return weight
    damped = np.array(moments.spikes, np.float32)
    damped[np.diag_indices_from(damped)] += np.float32(ridge * max(float(damped.diagonal().mean()), 1e-30))
    gap = np.linalg.solve(damped, (moments.cross - moments.spikes).T.astype(np.float32)).T
    aligned = np.empty(weight.shape, np.float32)
    for start in range(0, len(weight), ROWS):
        rows = slice(start, start + ROWS)
        aligned[rows] = weight[rows] + np.float32(strength) * (weight[rows] @ gap)
    return aligned


def quantise_gptq(
    weight: NDArray, hessian: NDArray, bits: int, group: int = 0, *, damp: float = DAMP, order: bool = True
) -> tuple[NDArray, NDArray]:
    """Integers and scales that keep ``weight @ inputs``, by GPTQ (arXiv 2210.17323).

    Columns are rounded one after another; the error of each is spread over those not yet rounded, by the
    inverse Hessian. A scale is fitted when its group's turn comes, on the weights as they are by then:
    the one with the least squared error (:func:`fit_scales`), columns weighted by the energy of their inputs.

    Args:
        weight: [N, K] float32.
        hessian: [K, K], sum of x x^T.
        bits: 2 to 8.
        group: Columns that share a scale; 0 for a whole row. Divides K.
        damp: Added to the diagonal, as a share of its mean.
        order: Groups, and columns within them, by falling energy (act order); else as they stand.

    Returns:
        Integers [N, K] int8 and scales [N, K / group] float32; a group of zeros has scale 0.
    """
    width = weight.shape[1]
    group = group or width
    energy = hessian.diagonal().astype(np.float64)
    turn = _turns(energy, group) if order else np.arange(width)
    factor = inverse_factor(hessian[np.ix_(turn, turn)], damp).astype(np.float32)
    pull = energy[turn].astype(np.float32)
    integers = np.empty(weight.shape, np.int8)
    scales = np.empty((len(weight), width // group), np.float32)
    for start in range(0, len(weight), ROWS):
        rows = slice(start, start + ROWS)
        columns = np.array(weight[rows, turn].T, np.float32, order="C")
        found, fitted = _round_columns(columns, factor, pull, bits, group)
        integers[rows, turn] = found.T
        scales[rows, turn[::group] // group] = fitted.T
    return integers, scales


def _turns(energy: NDArray, group: int) -> NDArray:
    """Columns in the order of rounding; a group stays together."""
    by_group = energy.reshape(-1, group)
    inside = np.argsort(-by_group, axis=1, kind="stable")
    outside = np.argsort(-by_group.sum(1), kind="stable")
    turns: NDArray = (inside + group * np.arange(len(by_group))[:, None])[outside].reshape(-1)
    return turns


def _round_columns(
    columns: NDArray, factor: NDArray, pull: NDArray, bits: int, group: int
) -> tuple[NDArray, NDArray]:
    """Integers [K, N] int8 and scales [K / group, N] of ``columns`` [K, N] float32, which is used up."""
    width, rows = columns.shape
    integers = np.empty((width, rows), np.int8)
    scales = np.empty((width // group, rows), np.float32)
    error = np.empty((min(BLOCK, width), rows), np.float32)
    for start in range(0, width, BLOCK):
        stop = min(start + BLOCK, width)
        for k in range(start, stop):
            if k % group == 0:
                scale = fit_scales(columns[k : k + group], pull[k : k + group], bits)
                scales[k // group] = scale
            nearest = rounded(columns[k], scale, bits)
            integers[k] = nearest
            error[k - start] = (columns[k] - nearest * scale) / factor[k, k]
            columns[k + 1 : stop] -= factor[k, k + 1 : stop, None] * error[k - start]
        columns[stop:] -= factor[start:stop, stop:].T @ error[: stop - start]
    return integers, scales
