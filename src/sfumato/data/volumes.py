"""Slices of medical volumes: NIfTI and DICOM, upright, in a window of 16 bits.

y = (x - low) / (high - low) * 65535, rounded and clipped, with x in the file's own units (after slope and intercept).
"""

import gzip
import hashlib
import io
import math
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import UserError
from .decode import LOOSE_RATIO, MOST_BYTES, fits, looks_like_dicom, optional
from .source import Picture

Window = tuple[float, float]  # level, width

ASKED = "were shown in the window that was asked for"
NAMED = "were shown in the window that the file names"
OWN = "were shown in a window from the 0.5 to the 99.5 percentile of the file's own values"
EMPTY = "came from files with slices of a single value, which were left out"
NOT_NUMBERS = "had values that are no finite numbers, which became the lowest"
UNPLACED = "did not say how they lie in the body, so the order of Analyze was assumed"

DEFLATED = b"1.2.840.10008.1.2.1.99"


def nifti(stored: bytes, window: Window | None = None) -> list[Picture]:
    """The axial slices of a NIfTI file (.nii or .nii.gz), from the feet up; of a 4-D file, volume after volume.

    The axes are reordered and flipped to right, anterior, superior by the file's own affine (to the nearest axes, so
    nothing is resampled). Each slice stands as radiologists look at it: the front of the body is up, and the patient's
    left is on the viewer's right. Slices of a single value are left out. Pixels are (H, W, 1) uint16; files of RGB
    values give (H, W, 3) uint8 without a window. Raises UserError for what is not such a file, or is cut short.
    """
    nib = optional("nibabel", "medical", "NIfTI files")
    header, raw = _voxels(nib, stored)  # (X, Y, Z, volumes) in the order of the file
    remarks: tuple[str, ...] = ()
    if not header["sform_code"] and not header["qform_code"]:
        remarks += (UNPLACED,)
    affine = header.get_best_affine()
    axes = nib.orientations.io_orientation(affine) if np.isfinite(affine).all() else np.array(np.nan)
    if np.isnan(axes).any():
        raise UserError("The affine of the NIfTI file does not name three axes; correct its sform or qform.")
    slope, intercept = header.get_slope_inter()
    named = float(header["cal_min"]), float(header["cal_max"])
    pictures: list[Picture] = []
    empty = 0
    for v in range(raw.shape[3]):
        volume = nib.orientations.apply_orientation(raw[..., v], axes)
        if raw.dtype.names:
            shown, how = np.stack([volume[c] for c in "RGB"], axis=-1), remarks
        else:
            values = volume.astype(np.float64 if raw.dtype.itemsize >= 4 else np.float32)
            if slope is not None:
                values = values * slope + (intercept or 0)
            values, odd = _finite(values)
            ends, why = _ends(values, window, named if math.isfinite(sum(named)) and named[1] > named[0] else None)
            shown, how = to_16_bits(values, *ends)[..., None], (*remarks, *odd, why)
        slices = shown[::-1, ::-1].transpose(2, 1, 0, 3)  # (Z, H, W, C): front up, the patient's left to the right
        full = (slices != slices[:, :1, :1]).any(axis=(1, 2, 3))
        empty += int((~full).sum())
        pictures += [Picture(np.ascontiguousarray(one), how, "NIfTI") for one in slices[full]]
    if not pictures:
        raise UserError(f"There is nothing to be seen: each of the {empty} slices has a single value.")
    return [Picture(p.pixels, p.remarks + (EMPTY,) * (empty > 0), p.mode) for p in pictures]


def dicom(stored: bytes, window: Window | None = None) -> list[Picture]:
    """The frames of a DICOM file: gray as (H, W, 1) uint16 in a window, colour as (H, W, 3) uint8.

    Values are rescaled by slope and intercept before the window, and MONOCHROME1, in which low is white, is inverted
    after it. `mode` is the modality. `group` is a hash of the patient's ID, or of the series where there is none, so
    that no name is kept. Raises UserError for a file without pictures, and for packings that pydicom cannot unpack.
    """
    pydicom = optional("pydicom", "medical", "DICOM files")
    whole = looks_like_dicom(stored)
    data = pydicom.dcmread(io.BytesIO(_bounded(stored) if whole else stored), force=not whole)
    if "PixelData" not in data and "FloatPixelData" not in data and "DoubleFloatPixelData" not in data:
        raise UserError("The file holds no DICOM picture.")
    _check(pydicom, data, len(stored))
    kind = str(data.get("PhotometricInterpretation", ""))
    mode, group = str(data.get("Modality", "") or "DICOM"), _group(data)
    try:
        frames = list(pydicom.pixels.iter_pixels(data))
    except RuntimeError as error:
        raise UserError(f"Its pictures are packed as {data.file_meta.TransferSyntaxUID.name}, and damaged.") from error
    if kind == "PALETTE COLOR":
        frames = [pydicom.pixels.apply_color_lut(frame, data) for frame in frames]
    if frames[0].ndim == 3:
        bits = 8 * frames[0].itemsize if kind == "PALETTE COLOR" else int(data.BitsStored)
        shift = max(0, bits - 8)
        return [Picture((frame >> shift).astype(np.uint8), (), mode, group) for frame in frames]
    values, remarks = _finite(np.stack([_rescaled(pydicom, data, frame, k) for k, frame in enumerate(frames)]))
    pictures = []
    curves = [None if window else _named(data, k) for k in range(len(values))]
    own, why = ((0.0, 0.0), NAMED) if all(curves) else _ends(values, window, None)
    for value, curve in zip(values, curves, strict=True):
        shown = curve(value) if curve else to_16_bits(value, *own)
        if kind == "MONOCHROME1":
            shown = 65535 - shown
        pictures.append(Picture(shown[:, :, None], (*remarks, NAMED if curve else why), mode, group))
    return pictures


def to_16_bits(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """low..high to 0..65535 as uint16, rounded and clipped; low = high is a threshold that low itself does not pass."""
    if low == high:
        return np.where(values > low, 65535, 0).astype(np.uint16)
    return np.rint(np.clip((values - low) / (high - low), 0, 1) * 65535).astype(np.uint16)


def _ends(values: np.ndarray, window: Window | None, named: tuple[float, float] | None) -> tuple[tuple[float, float], str]:
    """The values that become 0 and 65535, and which rule chose them."""
    if window is not None:
        level, width = window
        if not (math.isfinite(level) and 0 < width < math.inf):
            raise UserError(f"A window is a level and a width above 0, as in 40,400; found {level},{width}.")
        return (level - width / 2, level + width / 2), ASKED
    if named is not None:
        return named, NAMED
    low, high = np.percentile(values, (0.5, 99.5)).tolist()
    if low == high:  # almost all values are one: a mask, or a small thing on a black ground
        low, high = float(values.min()), float(values.max())
    return (low, high), OWN


def _finite(values: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    finite = np.isfinite(values)
    if finite.all():
        return values, ()
    if not finite.any():
        raise UserError("The volume holds no finite number.")
    return np.where(finite, values, values[finite].min()), (NOT_NUMBERS,)


# NIfTI


def _voxels(nib: Any, stored: bytes) -> tuple[Any, np.ndarray]:
    """The header, and the voxels (X, Y, Z, volumes) in the order and the type of the file; no more is unpacked."""
    packed = stored[:2] == b"\x1f\x8b"
    with gzip.open(io.BytesIO(stored)) if packed else io.BytesIO(stored) as file:
        start = file.read(540)
        sizes = {int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")}
        kinds = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
        kind = next((kinds[size] for size in sizes & kinds.keys()), None)
        if kind is None or len(start) < max(sizes & kinds.keys()):
            raise UserError("This is not a NIfTI file: its header is neither that of version 1 nor that of version 2.")
        header = kind(start[: kind.sizeof_hdr], check=False)
        if header["magic"].item()[:2] != b"n+":
            raise UserError("A NIfTI file is expected to hold its header and its voxels together; save it as .nii.")
        if not 2 <= int(header["dim"][0]) <= 7:
            raise UserError(f"A NIfTI file has 2 to 7 axes; this header says {int(header['dim'][0])}.")
        shape, dtype, offset = header.get_data_shape(), header.get_data_dtype(), int(header.get_data_offset())
        shape = tuple(map(int, shape)) + (1,) * (3 - len(shape))
        if dtype.kind not in "uif" and not {"R", "G", "B"} <= set(dtype.names or ()):
            raise UserError(f"Voxels of type {dtype} are not read; save them as real numbers.")
        if min(shape) < 1 or offset < 0:
            raise UserError(f"The NIfTI header says that the volume is {'x'.join(map(str, shape))}: it is damaged.")
        count = math.prod(shape)
        fits(shape[0], shape[1], dtype.itemsize, len(stored), 1032 if packed else 1, count // (shape[0] * shape[1]))
        if offset > MOST_BYTES:
            raise UserError("The NIfTI header says that the voxels begin beyond the end of the file.")
        rest = offset + count * dtype.itemsize - len(start)
        data = start + file.read(max(0, rest))
    if len(data) < offset + count * dtype.itemsize:
        raise UserError(f"The file is cut short: it promises {'x'.join(map(str, shape))} voxels and holds fewer.")
    voxels = np.frombuffer(data, dtype, count, offset)
    return header, voxels.reshape((*shape[:3], -1), order="F")


# DICOM


def _bounded(stored: bytes) -> bytes:
    """The same bytes, after a look that a deflated file does not unpack to more than a file may."""
    meta = 144 + int.from_bytes(stored[140:144], "little")  # the first element is the length of the rest of its group
    if DEFLATED in stored[132:meta]:
        unpacked = zlib.decompressobj(-zlib.MAX_WBITS)
        unpacked.decompress(stored[meta:], MOST_BYTES // 4)
        if unpacked.unconsumed_tail:
            raise UserError("The file unpacks to more than is read; save it uncompressed.")
    return stored


def _check(pydicom: Any, data: Any, stored: int) -> None:
    """Refuse what is too large for what is stored, and packings for which there is no reader."""
    syntax = data.file_meta.get("TransferSyntaxUID")
    if syntax is None:  # a file from before there were preambles
        syntax = pydicom.uid.ImplicitVRLittleEndian if data.original_encoding[0] else pydicom.uid.ExplicitVRLittleEndian
        data.file_meta.TransferSyntaxUID = syntax
    size = int(data.Columns), int(data.Rows)
    each = int(data.get("SamplesPerPixel", 1)) * int(data.BitsAllocated) / 8
    count = int(data.get("NumberOfFrames") or 1)
    packed = syntax.is_encapsulated
    deflated = syntax == DEFLATED.decode()
    fits(*size, each, stored, LOOSE_RATIO if packed else 1032 if deflated else 1, count)
    if packed and not pydicom.pixels.get_decoder(syntax).is_available:
        raise UserError(f"Its pictures are packed as {syntax.name}, which pydicom cannot unpack here; save it uncompressed.")


def _group(data: Any) -> str | None:
    name = str(data.get("PatientID", "") or data.get("SeriesInstanceUID", "") or "")
    return hashlib.blake2b(name.encode(), digest_size=8).hexdigest() if name else None


def _attribute(data: Any, k: int, sequence: str, name: str) -> Any:
    """An attribute of frame k: of the file, or from the functional groups of enhanced multi-frame files."""
    if name in data:
        return data[name].value
    shared = data.get("SharedFunctionalGroupsSequence") or []
    frames = data.get("PerFrameFunctionalGroupsSequence") or []
    for groups in (*frames[k : k + 1], *shared[:1]):
        for group in (groups.get(sequence) or [])[:1]:
            if name in group:
                return group[name].value
    return None


def _rescaled(pydicom: Any, data: Any, frame: np.ndarray, k: int) -> np.ndarray:
    if "ModalityLUTSequence" in data:
        return pydicom.pixels.apply_modality_lut(frame, data).astype(np.float64)
    transformation = "PixelValueTransformationSequence"
    slope = _attribute(data, k, transformation, "RescaleSlope")
    intercept = _attribute(data, k, transformation, "RescaleIntercept")
    return frame * (1.0 if slope is None else float(slope)) + (0.0 if intercept is None else float(intercept))


def _named(data: Any, k: int) -> Callable[[np.ndarray], np.ndarray] | None:
    """The first window that the file names for frame k, as the function of DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3.

    LINEAR          y = (x - (c - 1/2)) / (w - 1) + 1/2
    LINEAR_EXACT    y = (x - c) / w + 1/2
    SIGMOID         y = 1 / (1 + exp(-4 (x - c) / w))
    """
    found = [_attribute(data, k, "FrameVOILUTSequence", name) for name in ("WindowCenter", "WindowWidth")]
    if any(value is None or value == "" for value in found):
        return None
    c, w = (float(value if isinstance(value, float | int | str) else value[0]) for value in found)
    how = str(_attribute(data, k, "FrameVOILUTSequence", "VOILUTFunction") or "LINEAR")
    if not (math.isfinite(c) and 0 < w < math.inf) or (how == "LINEAR" and w < 1):
        return None
    if how == "SIGMOID":
        return lambda x: np.rint(65535 / (1 + np.exp(-np.clip(4 * (x - c) / w, -700, 700)))).astype(np.uint16)
    if how == "LINEAR_EXACT":
        return lambda x: to_16_bits(x, c - w / 2, c + w / 2)
    return lambda x: to_16_bits(x, c - 0.5 - (w - 1) / 2, c - 0.5 + (w - 1) / 2)
