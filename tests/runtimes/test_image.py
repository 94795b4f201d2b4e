"""Pictures become the one tensor that the options say, and whatever is none becomes an error of its own row."""

from __future__ import annotations

import io
import itertools
import struct
import sys
import threading
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.steps import encoded, objects, photo

from keelway.errors import CorruptArtifact, FailedPrecondition, InvalidInput, PayloadTooLarge, RowsRefused
from keelway.ports import Runtime, RuntimeOptions
from keelway.runtimes import image
from keelway.runtimes.image import ImageOptions, ImageRuntime
from keelway.types import Array


def no_member(_: str) -> Runtime:
    raise AssertionError("a step has no members")


def load(**options: Any) -> ImageRuntime:
    return image.load(Path(), "sha256:0", options, RuntimeOptions(), no_member)


def pixels(runtime: ImageRuntime, *pictures: Any) -> Array:
    return runtime.run({"picture": objects(*pictures)}, ["pixels"])[0]


def raw(**options: Any) -> ImageRuntime:
    """Height × width × channels, as they are."""
    return load(**{"datatype": "UINT8", "layout": "NHWC", **options})


def refusal(runtime: ImageRuntime, *pictures: Any) -> RowsRefused:
    with pytest.raises(RowsRefused) as refused:
        pixels(runtime, *pictures)
    return refused.value


def attempt(runtime: ImageRuntime, picture: bytes) -> Array | RowsRefused:
    try:
        return pixels(runtime, picture)
    except RowsRefused as refused:
        return refused


PHOTO = photo()
SAME = {"size": [40, 60]}


# What comes out


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP"])
def test_a_picture_of_the_right_size_is_passed_on_as_it_is(kind: str) -> None:
    how = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(pixels(raw(**SAME), encoded(PHOTO, kind, **how))[0], PHOTO)


@pytest.mark.parametrize("kind", ["JPEG", "GIF"])
def test_lossy_formats_are_decoded_as_pillow_decodes_them(kind: str) -> None:
    data = encoded(PHOTO, kind)
    with Image.open(io.BytesIO(data)) as opened:
        expected = np.asarray(opened.convert("RGB"))
    assert np.array_equal(pixels(raw(**SAME), data)[0], expected)


def test_colours_layout_and_datatype_are_what_is_declared() -> None:
    data = encoded(PHOTO)
    assert np.array_equal(pixels(raw(**SAME, colours="BGR"), data)[0], PHOTO[:, :, ::-1])
    gray = np.asarray(Image.fromarray(PHOTO).convert("L"))
    assert np.array_equal(pixels(raw(**SAME, colours="gray"), data)[0, :, :, 0], gray)
    turned = pixels(load(**SAME, datatype="UINT8"), data)
    assert np.array_equal(turned[0], PHOTO.transpose(2, 0, 1))
    for options, shape in (
        ({"layout": "NCHW"}, (-1, 3, 40, 60)),
        ({"layout": "NHWC"}, (-1, 40, 60, 3)),
        ({"layout": "NCHW", "colours": "gray"}, (-1, 1, 40, 60)),
    ):
        runtime = load(**SAME, **options)
        assert runtime.outputs[0].shape == shape
        answer = pixels(runtime, data, data)
        assert answer.shape == (2, *shape[1:])
        assert (answer.dtype, runtime.outputs[0].datatype) == (np.float32, "FP32")
        assert answer.flags.c_contiguous


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_numbers_are_scaled_and_normalised_in_the_order_of_the_colours(layout: str) -> None:
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.25, 0.125]
    answer = pixels(load(**SAME, layout=layout, colours="BGR", mean=mean, std=std), encoded(PHOTO))[0]
    expected = (PHOTO[:, :, ::-1].astype(np.float64) / 255 - mean) / std
    if layout == "NCHW":
        expected = expected.transpose(2, 0, 1)
    assert np.allclose(answer, expected, atol=1e-5)


def test_without_further_word_a_number_is_between_0_and_1_and_a_scale_of_1_keeps_it() -> None:
    assert np.allclose(pixels(load(**SAME, layout="NHWC"), encoded(PHOTO))[0], PHOTO / 255, atol=1e-6)
    kept = pixels(load(**SAME, layout="NHWC", scale=1.0, mean=[128.0]), encoded(PHOTO))[0]
    assert np.array_equal(kept, PHOTO.astype(np.float32) - 128)


@pytest.mark.parametrize("resample", ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"])
def test_stretching_is_pillows_own_resize(resample: str) -> None:
    expected = Image.fromarray(PHOTO).resize((24, 32), Image.Resampling[resample.upper()])
    assert np.array_equal(pixels(raw(size=[32, 24], resample=resample), encoded(PHOTO))[0], np.asarray(expected))


def test_cropping_takes_the_centre_of_what_has_the_shorter_side() -> None:
    """As in training: the shorter side to 32 (or, with a fraction of 7/8, to 36), then the middle 32 × 32."""
    for fraction, side in ((1.0, 32), (32 / 36, 36)):
        whole = Image.fromarray(PHOTO).resize((int(side * 60 / 40), side), Image.Resampling.BILINEAR)
        left, top = (whole.width - 32) // 2, (whole.height - 32) // 2
        expected = np.asarray(whole)[top : top + 32, left : left + 32]
        runtime = raw(size=[32, 32], how="crop", crop_fraction=fraction)
        assert np.array_equal(pixels(runtime, encoded(PHOTO))[0], expected)
        upright = PHOTO.transpose(1, 0, 2).copy()
        assert np.array_equal(pixels(runtime, encoded(upright))[0], expected.transpose(1, 0, 2))


@pytest.mark.parametrize("shorter", [230, 232, 248, 256, 354, 400])
def test_a_fraction_says_any_shorter_side(shorter: int) -> None:
    """A picture that has that side already is only cut: binary numbers must not make it one less."""
    picture = photo(shorter, shorter + 20)
    cut = pixels(raw(size=[224, 224], how="crop", crop_fraction=224 / shorter), encoded(picture))[0]
    top, left = (shorter - 224) // 2, (shorter - 204) // 2
    assert np.array_equal(cut, picture[top : top + 224, left : left + 224])


@pytest.mark.parametrize("pad_to", ["centre", "corner"])
def test_padding_keeps_the_shape_and_fills_around_it(pad_to: str) -> None:
    answer = pixels(raw(size=[48, 48], how="pad", fill=114, pad_to=pad_to), encoded(PHOTO))[0]
    inside = np.asarray(Image.fromarray(PHOTO).resize((48, 32), Image.Resampling.BILINEAR))
    top = 8 if pad_to == "centre" else 0
    assert np.array_equal(answer[top : top + 32], inside)
    around = np.delete(answer, np.s_[top : top + 32], axis=0)
    assert around.shape == (16, 48, 3)
    assert (around == 114).all()


@given(st.integers(1, 90), st.integers(1, 90), st.integers(8, 64), st.sampled_from([1, 4, 8]))
def test_a_free_size_is_bounded_a_multiple_and_keeps_the_shape(
    height: int, width: int, longest: int, multiple: int
) -> None:
    runtime = raw(longest=longest, multiple=multiple)
    assert runtime.outputs[0].shape == (-1, -1, -1, 3)
    _, low, wide, _ = pixels(runtime, encoded(photo(height, width))).shape
    assert max(low, wide) <= longest
    assert min(low, wide) >= 1
    assert (low % multiple, wide % multiple) == (0, 0)
    ratio = min(1, longest / max(height, width))
    assert abs(low - height * ratio) <= multiple
    assert abs(wide - width * ratio) <= multiple


def test_pictures_that_come_out_in_several_sizes_are_sent_apart() -> None:
    wide, high = encoded(photo(20, 40)), encoded(photo(40, 20))
    refused = refusal(raw(longest=40), wide, high, wide)
    assert list(refused.errors) == [1]
    assert refused.message.startswith("row 1: the picture comes out in another size")
    assert "separate requests" in refused.message
    assert pixels(raw(longest=40), wide, wide).shape == (2, 20, 40, 3)


@pytest.mark.parametrize("datatype", ["INT32", "INT64"])
def test_the_size_a_picture_had_is_answered_beside_it(datatype: str) -> None:
    runtime = load(size=[8, 8], original_size=datatype)
    assert [spec.name for spec in runtime.outputs] == ["pixels", "original_size"]
    data = objects(encoded(photo(30, 20)), encoded(photo(7, 9)))
    small, sizes = runtime.run({"picture": data}, ["pixels", "original_size"])
    assert small.shape == (2, 3, 8, 8)
    assert sizes.tolist() == [[30, 20], [7, 9]]
    assert sizes.dtype == np.dtype(datatype.lower())
    assert runtime.run({"picture": data}, ["original_size"])[0].shape == (2, 2)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_camera_is_turned_back(orientation: int) -> None:
    notes = Image.Exif()
    notes[0x0112] = orientation
    data = encoded(PHOTO, exif=notes)
    with Image.open(io.BytesIO(data)) as opened:
        from PIL import ImageOps

        expected = np.asarray(ImageOps.exif_transpose(opened))
    runtime = load(size=list(expected.shape[:2]), datatype="UINT8", layout="NHWC", original_size="INT64")
    answer, size = runtime.run({"picture": objects(data)}, ["pixels", "original_size"])
    assert np.array_equal(answer[0], expected)
    assert size.tolist() == [list(expected.shape[:2])]


# Kinds of pictures


MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"]


@pytest.mark.parametrize("mode", MODES)
def test_pictures_of_every_mode_become_rgb(mode: str) -> None:
    picture = Image.fromarray(PHOTO).convert(mode)
    kind = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    data = encoded(picture, kind)
    with Image.open(io.BytesIO(data)) as opened:
        expected = np.asarray(opened.convert("RGBA").convert("RGB") if mode == "P" else opened.convert("RGB"))
    assert np.array_equal(pixels(raw(**SAME), data)[0], expected)


def test_sixteen_bits_keep_their_upper_eight() -> None:
    deep = np.linspace(0, 65535, 2400).astype(np.uint16).reshape(40, 60)
    answer = pixels(raw(**SAME, colours="gray"), encoded(Image.fromarray(deep)))[0, :, :, 0]
    assert np.array_equal(answer, (deep >> 8).astype(np.uint8))


def test_transparency_is_dropped_and_makes_no_noise() -> None:
    palette = Image.fromarray(PHOTO).convert("P", palette=Image.Palette.ADAPTIVE)
    data = encoded(palette, transparency=bytes(range(256)))
    with Image.open(io.BytesIO(data)) as opened:
        expected = np.asarray(opened.convert("RGBA"))[:, :, :3]
    runtime = raw(**SAME)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as if somebody had set the filters anew since it was loaded
        assert np.array_equal(pixels(runtime, data)[0], expected)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_frame_counts(kind: str) -> None:
    frames = [Image.fromarray(np.full((40, 60, 3), shade, np.uint8)) for shade in (10, 200, 90)]
    how = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **how)
    assert (pixels(raw(**SAME), data) == 10).all()


# What is no picture


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header is honest about an absurd size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def webp_head(kind: bytes, body: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 4 + 8 + len(body)) + b"WEBP" + kind + struct.pack("<I", len(body)) + body


BOMBS = {
    "PNG": bomb(60_000, 60_000),
    "PNG of four thousand million rows": bomb(1, 2**31 - 1),
    "GIF": b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b",\0\0\0\0\xff\xff\xff\xff\0\2\2\x4c\1\0;",
    "BMP": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
    "WebP extended": webp_head(b"VP8X", bytes(4) + b"\xff\xff\x00\xff\xff\x00"),
    "WebP lossless": webp_head(b"VP8L", b"\x2f\xff\xff\xff\x0f" + bytes(20)),
    "WebP lossy": webp_head(b"VP8 ", b"\0\0\0\x9d\x01\x2a\xff\x3f\xff\x3f" + bytes(20)),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_picture_of_absurd_size_is_refused_before_it_is_decoded(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(self: Any) -> None:
        raise AssertionError("it was decoded")

    for module in ("Png", "Gif", "Bmp", "WebP", "Jpeg"):
        plugin = __import__(f"PIL.{module}ImagePlugin", fromlist=[""])
        monkeypatch.setattr(getattr(plugin, f"{module}ImageFile"), "load", decode)
    assert refusal(raw(**SAME), BOMBS[kind]).message == "row 0: the picture has more than 50000000 pixels"


def test_the_cap_is_an_option_and_counts_pixels() -> None:
    data = encoded(PHOTO)
    assert pixels(raw(**SAME, max_pixels=2400), data).shape == (1, 40, 60, 3)
    assert "more than 2399 pixels" in refusal(raw(**SAME, max_pixels=2399), data).message


def test_a_jpeg_of_endless_scans_is_refused() -> None:
    """Each costs a pass over all pixels, and none of them many bytes."""
    data = encoded(photo(64, 64), "JPEG", progressive=True)
    assert pixels(raw(size=[64, 64]), data).shape == (1, 64, 64, 3)
    start = data.rindex(b"\xff\xda")
    last = data[start:-2]
    many = data[:-2] + last * 100 + b"\xff\xd9"
    assert refusal(raw(size=[64, 64]), many).message == "row 0: the picture has more than 64 scans"


def test_a_picture_too_narrow_to_be_cropped_is_refused_rather_than_blown_up() -> None:
    assert "too long and narrow" in refusal(raw(size=[512, 512], how="crop"), encoded(photo(1, 2000))).message
    assert pixels(raw(size=[512, 512], how="pad"), encoded(photo(1, 2000))).shape == (1, 512, 512, 3)


def test_small_files_cannot_ask_for_all_memory() -> None:
    one = encoded(np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(PayloadTooLarge, match="send fewer at once"):
        pixels(load(size=[4096, 4096]), *[one] * 3)


WHOLE = {
    kind: encoded(photo(64, 64), kind, **({"progressive": True} if kind == "JPEG" else {}))
    for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP")
}


@pytest.mark.parametrize("kind", WHOLE)
def test_a_picture_cut_short_is_refused(kind: str) -> None:
    data = WHOLE[kind]
    for size in (1, 2, 10, 30, len(data) // 2):
        message = refusal(raw(size=[64, 64]), data[:size]).message
        assert message.startswith("row 0: ")
        assert "picture" in message


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(WHOLE)), st.data())
def test_damage_anywhere_gives_a_picture_or_a_refusal_and_nothing_else(kind: str, data: Any) -> None:
    damaged = bytearray(WHOLE[kind])
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    answer = attempt(raw(size=[8, 8]), bytes(damaged))
    assert list(answer.errors) == [0] if isinstance(answer, RowsRefused) else answer.shape == (1, 8, 8, 3)


HEADS = [data[:size] for data in (*WHOLE.values(), *BOMBS.values()) for size in (0, 2, 8, 16, 30)]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(HEADS), st.binary(max_size=200))
def test_random_bytes_are_never_anything_but_refused(head: bytes, rest: bytes) -> None:
    refused = refusal(raw(size=[8, 8]), head + rest)
    assert len(refused.message) < 200
    assert refused.field == "picture"


@given(st.text(max_size=30))
def test_text_is_no_picture(text: str) -> None:
    assert "picture" in refusal(raw(size=[8, 8]), text).message


def test_base64_text_is_told_how_to_be_sent() -> None:
    import base64

    for data in WHOLE.values():
        text = base64.b64encode(data).decode()
        for sent in (text, text.encode(), f"data:image/png;base64,{text}"):
            assert "content_type base64" in refusal(raw(size=[8, 8]), sent).message


def test_every_bad_row_is_named_and_none_is_quoted() -> None:
    secret = b"sentinel-4711"
    refused = refusal(raw(**SAME), encoded(PHOTO), secret, encoded(PHOTO), None, b"")
    assert {row: error.message for row, error in refused.errors.items()} == {
        1: "this is no JPEG, PNG, WebP, GIF or BMP picture",
        3: "the picture is missing",
        4: "the picture is empty",
    }
    assert refused.message == "row 1: this is no JPEG, PNG, WebP, GIF or BMP picture"


def test_damaged_notes_of_the_camera_harm_nothing() -> None:
    """Pillow would warn of them, and here a warning is an error."""
    notes = Image.Exif()
    notes[0x0112] = 6
    data = encoded(PHOTO, "JPEG", exif=notes)
    at = data.index(b"Exif\0\0") + 6
    for damage in (
        b"II*\0\xff\xff\xff\xff",
        b"II*\0\x08\0\0\0\xff\xff",
        b"MM\0*\0\0\0\x08\0\x05\x01\x12\0\x03",
        b"\0" * 8,
    ):
        damaged = data[:at] + damage + data[at + len(damage) :]
        assert pixels(raw(size=[8, 8]), damaged).shape == (1, 8, 8, 3)


# Options


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({}, "size"),
        ({"size": (8, 8), "longest": 8}, "size"),
        ({"size": (0, 8)}, "longest"),
        ({"longest": 100_000}, "longest"),
        ({"longest": 8, "how": "crop"}, "how"),
        ({"longest": 8, "multiple": 16}, "multiple"),
        ({"size": (8, 8), "multiple": 2}, "multiple"),
        ({"size": (8, 8), "crop_fraction": 0.0}, "crop_fraction"),
        ({"size": (8, 8), "fill": 256}, "fill"),
        ({"size": (8, 8), "mean": (0.5, 0.5)}, "mean"),
        ({"size": (8, 8), "colours": "gray", "mean": (0.5, 0.5, 0.5)}, "mean"),
        ({"size": (8, 8), "std": (1.0, 1.0, 0.0)}, "std"),
        ({"size": (8, 8), "datatype": "UINT8", "scale": 1.0}, "datatype"),
        ({"size": (8, 8), "max_pixels": 0}, "max_pixels"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_named(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        ImageOptions(**options).check()
    assert refused.value.field == field
    with pytest.raises(CorruptArtifact):
        load(**options)


def test_options_nobody_knows_are_a_corrupt_artifact() -> None:
    for options in ({"size": [8, 8], "more": 1}, {"size": "large"}, {"size": [8]}, {"size": [8, 8], "how": "bend"}):
        with pytest.raises(CorruptArtifact):
            load(**options)


def test_without_pillow_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(FailedPrecondition) as refused:
        load(**SAME)
    assert refused.value.hint == 'pip install "keelway[images]"'


def test_the_example_is_a_picture_that_it_takes() -> None:
    for options in ({"size": [30, 20]}, {"longest": 4000, "multiple": 32}, {"size": [8, 8], "how": "crop"}):
        runtime = load(**options)
        assert len(pixels(runtime, *runtime.examples["picture"])) == 1
        assert len(runtime.examples["picture"][0]) < 10_000


def test_runs_may_overlap() -> None:
    runtime = load(size=[32, 32], how="crop", mean=[0.5], std=[0.25])
    assert runtime.thread_safe
    data = [encoded(photo(40 + seed, 60, seed), kind) for seed, kind in enumerate(("JPEG", "PNG", "WEBP", "GIF"))]
    alone = [pixels(runtime, picture) for picture in data]
    wrong: list[int] = []

    def ask(turn: int) -> None:
        for position, picture in itertools.islice(itertools.cycle(enumerate(data)), turn, turn + 40):
            if not np.array_equal(pixels(runtime, picture), alone[position]):
                wrong.append(position)

    threads = [threading.Thread(target=ask, args=(turn,)) for turn in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
