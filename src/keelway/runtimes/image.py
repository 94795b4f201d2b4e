"""Encoded pictures to one tensor: the step of a pipeline that lets people send JPEG, PNG, WebP, GIF or BMP files.

Decoding is Pillow's. What comes out is fixed by the options, which are part of the manifest: size, colours, datatype,
scale and layout. Nothing of a picture is decoded before its size is known and allowed. ``hosting`` loads it by its
entry point, ``publish`` makes its manifest.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
import numpy as np

from keelway.errors import CorruptArtifact, FailedPrecondition, InvalidInput, PayloadTooLarge, RowsRefused
from keelway.ports import MemberLoader, RuntimeOptions
from keelway.types import NUMPY_DTYPES, Array, TensorSpec

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURE: Final = TensorSpec("picture", "BYTES", (-1,))
_PIXELS, _ORIGINAL = "pixels", "original_size"

#: Longest side of what comes out, and most bytes of what one run answers: small files can hold large pictures.
_MAX_SIDE: Final = 8192
_MAX_ANSWER: Final = 1 << 29
#: A progressive JPEG has about ten scans, each of which costs a pass over all its pixels.
_MAX_SCANS: Final = 64
_FORMATS: Final = "JPEG, PNG, WebP, GIF or BMP"
_CHANNELS: Final = {"RGB": 3, "BGR": 3, "gray": 1}
#: EXIF's orientation -> the transposition that undoes it, by its name in Pillow.
_ORIENTATIONS: Final = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])", re.DOTALL)


class ImageOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The manifest options.

    ``size`` is [height, width]. ``how`` a picture gets there: ``stretch``; ``crop``, the shorter side first and the
    centre of that, of which ``crop_fraction`` is kept; or ``pad``, the longer side first and ``fill`` around it, in the
    ``centre`` or below and to the right (``pad_to = "corner"``). Instead of ``size``, ``longest``: pictures keep their
    shape, their longest side is at most that, and both sides are multiples of ``multiple``.

    FP32 is (value * ``scale`` - ``mean``) / ``std``, with one number or one for each of the ``colours``, in their
    order; UINT8 is the value itself. ``scale`` is 1/255 by default. ``original_size`` is the datatype of an output
    with the height and width that each picture had. ``max_pixels`` bounds a picture before it is decoded.
    """

    size: tuple[int, int] | None = None
    how: Literal["stretch", "crop", "pad"] = "stretch"
    crop_fraction: float = 1.0
    fill: int = 0
    pad_to: Literal["centre", "corner"] = "centre"
    longest: int | None = None
    multiple: int = 1
    colours: Literal["RGB", "BGR", "gray"] = "RGB"
    datatype: Literal["UINT8", "FP32"] = "FP32"
    scale: float | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    layout: Literal["NHWC", "NCHW"] = "NCHW"
    resample: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"] = "bilinear"
    original_size: Literal["INT32", "INT64"] | None = None
    max_pixels: int = 50_000_000

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """``pixels``, and ``original_size`` [-1, 2] if it is asked for."""
        height, width = self.size or (-1, -1)
        channels = _CHANNELS[self.colours]
        shape = (-1, height, width, channels) if self.layout == "NHWC" else (-1, channels, height, width)
        pixels = TensorSpec(_PIXELS, self.datatype, shape)
        return (pixels, TensorSpec(_ORIGINAL, self.original_size, (-1, 2))) if self.original_size else (pixels,)

    def check(self) -> None:
        """Raise ``InvalidInput`` naming the option unless they make sense together."""
        sides = self.size or (self.longest,)
        channels = _CHANNELS[self.colours]
        problems = {
            "size": (self.size is None) == (self.longest is None) and "give either size = [height, width] or longest",
            "longest": not all(isinstance(side, int) and 1 <= side <= _MAX_SIDE for side in sides)
            and f"a side is between 1 and {_MAX_SIDE} pixels",
            "how": self.size is None and self.how != "stretch" and "a picture is cropped or padded to a size",
            "multiple": not 1 <= self.multiple <= (self.longest or 1) and "multiple is between 1 and longest",
            "crop_fraction": not 0.05 <= self.crop_fraction <= 1 and "crop_fraction is between 0.05 and 1",
            "fill": not 0 <= self.fill <= 255 and "fill is between 0 and 255",
            "mean": len(self.mean) not in (0, 1, channels) and f"mean has one number, or {channels}",
            "std": (len(self.std) not in (0, 1, channels) or not all(self.std))
            and f"std has one number, or {channels}",
            "datatype": self.datatype == "UINT8"
            and (self.scale is not None or bool(self.mean or self.std))
            and "scale, mean and std need the datatype FP32",
            "max_pixels": not 1 <= self.max_pixels <= 2**28 and f"max_pixels is between 1 and {2**28}",
        }
        for field, problem in problems.items():
            if problem:
                raise InvalidInput(f"image: {problem}", field=field)


class ImageRuntime:
    """Options at work. Runs may overlap: nothing is kept from one to the next."""

    thread_safe = True

    def __init__(self, options: ImageOptions) -> None:
        self.inputs = (PICTURE,)
        self.outputs = options.outputs
        self._options = options
        scale = 1 / 255 if options.scale is None else options.scale
        self._scale = np.float32(scale)
        self._mean = np.array(options.mean or (0,), np.float32)
        self._std = np.array(options.std or (1,), np.float32)
        #: One picture that it takes, for the warm-up and the documentation page.
        self.examples = {PICTURE.name: _example(options)}

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Sequence[Array]:
        """Raises ``RowsRefused`` for pictures that cannot be read, are too large, or, where the size is free, come out
        in another size than the first; ``PayloadTooLarge`` if they are too many."""
        pictures = inputs[PICTURE.name].tolist()
        pixels: list[Array] = []
        sizes: list[tuple[int, int]] = []
        errors: dict[int, InvalidInput] = {}
        for row, picture in enumerate(pictures):
            try:
                made, size = self._picture(picture)
                if pixels and made.shape != pixels[0].shape:
                    raise InvalidInput(
                        "the picture comes out in another size than the first; send pictures of different sizes in "
                        "separate requests",
                        field=PICTURE.name,
                    )
            except InvalidInput as error:
                errors[row] = error
                continue
            if made.size * self._bytes_each * len(pictures) > _MAX_ANSWER:
                raise PayloadTooLarge("the pictures of one request become too much data; send fewer at once")
            pixels.append(made)
            sizes.append(size)
        if errors:
            raise RowsRefused.of(errors)
        original = np.array(sizes, NUMPY_DTYPES[self._options.original_size or "INT64"])
        return [self._tensor(pixels) if name == _PIXELS else original for name in outputs]

    def close(self) -> None:
        """Nothing is held."""

    @property
    def _bytes_each(self) -> int:
        return NUMPY_DTYPES[self._options.datatype].itemsize

    def _picture(self, picture: Any) -> tuple[Array, tuple[int, int]]:
        """Height × width × channels in UINT8, and the height and width that the picture had."""
        options = self._options
        image = _plain(_decoded(_bytes_of(picture), options.max_pixels), options.colours)
        size = (image.height, image.width)
        made = np.asarray(_resized(image, options))
        made = made[:, :, None] if made.ndim == 2 else made
        return made[:, :, ::-1] if options.colours == "BGR" else made, size

    def _tensor(self, pictures: Sequence[Array]) -> Array:
        nchw = self._options.layout == "NCHW"
        each = [picture.transpose(2, 0, 1) if nchw else picture for picture in pictures]
        batch = np.stack(each, out=np.empty((len(each), *each[0].shape), np.uint8))
        if self._options.datatype == "UINT8":
            return batch
        shape = (-1, 1, 1) if nchw else (-1,)
        scaled: Array = np.multiply(batch, self._scale, dtype=np.float32)
        if self._options.mean:
            scaled -= self._mean.reshape(shape)
        if self._options.std:
            scaled /= self._std.reshape(shape)
        return scaled


def load(
    folder: Path,
    model_digest: str,
    manifest_options: Mapping[str, Any],
    options: RuntimeOptions,
    load_member: MemberLoader,
) -> ImageRuntime:
    """The entry point ``image``. Raises ``CorruptArtifact`` for options that cannot be read, ``FailedPrecondition`` if
    Pillow is not installed."""
    try:
        declared = msgspec.convert(dict(manifest_options), ImageOptions)
        declared.check()
    except (msgspec.ValidationError, InvalidInput) as error:
        raise CorruptArtifact("the options of the image step are not valid", hint="push the pipeline again") from error
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise FailedPrecondition(
            "decoding pictures needs Pillow", field="image", hint='pip install "keelway[images]"'
        ) from error
    # What Pillow thinks of somebody's file is for nobody's log. Not around each run: the filters belong to all threads.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    return ImageRuntime(declared)


def _bytes_of(picture: Any) -> bytes:
    if isinstance(picture, bytes):
        return picture
    if not isinstance(picture, str):
        raise InvalidInput("the picture is missing", field=PICTURE.name)
    # A client's library may have taken bytes for text because they happen to be that.
    return picture.encode(errors="replace")


def _decoded(data: bytes, max_pixels: int) -> Image:
    """The first frame, upright. Raises ``InvalidInput``, whatever ``data`` is."""
    kind = _kind(data)
    if kind is None:
        raise InvalidInput(_no_picture(data), field=PICTURE.name)
    try:
        _check_size(_webp_size(data) if kind == "WEBP" else (1, 1), max_pixels)
        image = _opened(kind, data)
        _check_size(image.size, max_pixels)
        if kind == "JPEG" and _scans(data) > _MAX_SCANS:
            raise InvalidInput(f"the picture has more than {_MAX_SCANS} scans", field=PICTURE.name)
        image.load()
    except (InvalidInput, MemoryError):
        raise
    except Exception:  # noqa: BLE001 - Pillow raises a dozen kinds for damaged files, none of them promised
        raise InvalidInput("the picture is damaged or cut short", field=PICTURE.name) from None
    return _upright(image)


def _kind(data: bytes) -> str | None:
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    return "BMP" if data[:2] == b"BM" else None


def _no_picture(data: bytes) -> str:
    if not data:
        return "the picture is empty"
    # How a JPEG, PNG, GIF, WebP or BMP file begins in base64.
    if data.startswith((b"/9j/", b"iVBOR", b"R0lGOD", b"UklGR", b"Qk", b"data:image/")):
        return (
            "the picture is base64 text; say so: as a row's value {'b64': ...}, in V2 JSON with the parameter "
            "content_type base64"
        )
    return f"this is no {_FORMATS} picture"


def _opened(kind: str, data: bytes) -> Image:
    """The header read, nothing decoded. The classes are asked themselves: ``PIL.Image.open`` warns of sizes and goes
    by a limit of the whole process."""
    file = io.BytesIO(data)
    if kind == "JPEG":
        from PIL.JpegImagePlugin import JpegImageFile

        return JpegImageFile(file)
    if kind == "PNG":
        from PIL.PngImagePlugin import PngImageFile

        return PngImageFile(file)
    if kind == "WEBP":
        from PIL.WebPImagePlugin import WebPImageFile

        return WebPImageFile(file)
    if kind == "GIF":
        from PIL.GifImagePlugin import GifImageFile

        return GifImageFile(file)
    from PIL.BmpImagePlugin import BmpImageFile

    return BmpImageFile(file)


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise InvalidInput("the picture has no pixels", field=PICTURE.name)
    if width * height > max_pixels:
        raise InvalidInput(f"the picture has more than {max_pixels} pixels", field=PICTURE.name)


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height as a WebP file states them: its decoder takes memory for all pixels as soon as it is made."""
    kind = data[12:16]
    if kind == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF


def _scans(data: bytes) -> int:
    """The number of scans of a JPEG, counted by its markers; those inside segments (a preview, say) do not count."""
    scans, at = 0, 2
    while scans <= _MAX_SCANS and (found := _MARKER.search(data, at)):
        marker, at = found[1][0], found.end()
        if marker == 0xD9:  # the end of the picture; cameras append films
            break
        if marker == 0xDA:
            scans += 1
        if marker not in (0x01, 0xD8):
            at += int.from_bytes(data[at : at + 2], "big")
    return scans


def _upright(image: Image) -> Image:
    from PIL.Image import Transpose

    try:
        orientation = image.getexif().get(0x0112)
    except Exception:  # noqa: BLE001 - a picture with damaged notes is still a picture
        return image
    turn = _ORIENTATIONS.get(orientation) if isinstance(orientation, int) else None
    return image.transpose(Transpose[turn]) if turn else image


def _plain(image: Image, colours: str) -> Image:
    """In RGB or gray, eight bits each. Transparency is dropped, sixteen bits lose their lower eight."""
    from PIL.Image import fromarray

    if image.mode == "I" or image.mode.startswith("I;16"):
        image = fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # directly to RGB, Pillow warns of some palettes
    mode = "L" if colours == "gray" else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _resized(image: Image, options: ImageOptions) -> Image:
    if options.size is None:
        return _to(image, _free_size(image, options), options)
    height, width = options.size
    if options.how == "crop":
        return _cropped(image, (height, width), options)
    if options.how == "pad":
        return _padded(image, (height, width), options)
    return _to(image, (height, width), options)


def _to(image: Image, size: tuple[int, int], options: ImageOptions) -> Image:
    from PIL.Image import Resampling

    height, width = size
    if image.size == (width, height):
        return image
    return image.resize((width, height), Resampling[options.resample.upper()])


def _free_size(image: Image, options: ImageOptions) -> tuple[int, int]:
    longest, multiple = options.longest or 1, options.multiple
    ratio = min(1.0, longest / max(image.size))
    most = longest // multiple
    height, width = (
        min(most, max(1, round(side * ratio / multiple))) * multiple for side in (image.height, image.width)
    )
    return height, width


def _cropped(image: Image, size: tuple[int, int], options: ImageOptions) -> Image:
    """The centre of the picture, whose shorter side is made ``size / crop_fraction`` first, as in training."""
    height, width = size
    # A little more, for fractions such as 224 / 232 that binary numbers cannot say.
    low, wide = (int(side / options.crop_fraction + 1e-6) for side in size)
    if low * image.width >= wide * image.height:
        wide = low * image.width // image.height
    else:
        low = wide * image.height // image.width
    if low * wide > options.max_pixels:
        raise InvalidInput("the picture is too long and narrow to be cropped", field=PICTURE.name)
    image = _to(image, (low, wide), options)
    top, left = (low - height) // 2, (wide - width) // 2
    return image.crop((left, top, left + width, top + height))


def _padded(image: Image, size: tuple[int, int], options: ImageOptions) -> Image:
    from PIL.Image import new

    height, width = size
    ratio = min(height / image.height, width / image.width)
    low, wide = max(1, round(image.height * ratio)), max(1, round(image.width * ratio))
    image = _to(image, (low, wide), options)
    canvas = new(image.mode, (width, height), (options.fill,) * len(image.mode))
    canvas.paste(image, ((width - wide) // 2, (height - low) // 2) if options.pad_to == "centre" else (0, 0))
    return canvas


def _example(options: ImageOptions) -> Array:
    """A gray picture of about the size that comes out; a large one would only make the documentation page long."""
    from PIL.Image import new

    height, width = (min(side or 1, 1024) for side in options.size or (options.longest, options.longest))
    file = io.BytesIO()
    new("L", (width, height), 128).save(file, "PNG")
    return np.array([file.getvalue()], object)
