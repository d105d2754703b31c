#!/usr/bin/env python3
"""Writes tests/fixtures/images: small PNG and JPEG files and what PIL and torchvision make of them.

NAME.png|jpg has its decoded pixels in NAME.rgb, NAME.l (grey) and NAME.rgba; resized and cropped ones are named after
what was done. Such a file holds the width and the height (two little-endian int32) and the bytes of
Image.convert("RGB"), ("L") or ("RGBA").
Needs pillow 13 or later (earlier ones resize in another order), numpy and torchvision. Run from the repository's root; the result is committed.
"""
import io
import pathlib
import struct
import zlib

import numpy as np
from PIL import Image
from torchvision.transforms import InterpolationMode, functional

OUT = pathlib.Path("tests/fixtures/images")
RNG = np.random.default_rng(20240501)
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
MODES = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}


def write_as(mode, name, image):
    image = image.convert(mode)
    (OUT / f"{name}.{mode.lower()}").write_bytes(struct.pack("<ii", *image.size) + image.tobytes())


def write_rgb(name, image):
    write_as("RGB", name, image)


def write_image(name, data):
    (OUT / name).write_bytes(data)
    for mode in ("L", "RGB", "RGBA"):
        with Image.open(io.BytesIO(data)) as image:
            write_as(mode, pathlib.Path(name).stem, image)


def picture(width, height, channels=3):
    """A gradient with noise and hard edges: smooth, busy and clipping parts in one."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [(x * (3 + c) + y * (5 - c)) % 256 for c in range(channels)]
    pixels = np.stack(planes, -1) + RNG.integers(-40, 40, (height, width, channels))
    pixels[height // 3 : height // 2, width // 4 : width // 2] = 255
    pixels[height // 2 : height // 2 + 3, :] = 0
    return np.clip(pixels, 0, 255).astype(np.uint8)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def png(width, height, depth, colour, samples, extra=b"", interlaced=False):
    """A PNG file of `samples` [height, width, channels], for the kinds that PIL cannot write itself."""

    def rows(part):
        out = b""
        for row in part:
            values = row.reshape(-1)
            if depth == 16:
                out += b"\0" + values.astype(">u2").tobytes()
            else:
                bits = ((values[:, None] >> np.arange(depth - 1, -1, -1)) & 1).reshape(-1).astype(np.uint8)
                out += b"\0" + np.packbits(bits).tobytes()
        return out

    if interlaced:
        passes = [samples[y0::dy, x0::dx] for x0, y0, dx, dy in ADAM7]
        raw = b"".join(rows(part) for part in passes if part.size)
    else:
        raw = rows(samples)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    )


def make_png():
    width, height = 21, 13
    names = {0: ("grey", 1), 2: ("rgb", 3), 3: ("palette", 1), 4: ("grey_alpha", 2), 6: ("rgba", 4)}
    depths = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
    for colour, (name, channels) in names.items():
        for depth in depths[colour]:
            samples = RNG.integers(0, 1 << depth, (height, width, channels))
            if colour == 0 and depth == 16:
                samples[::2] >>= 8  # values that are not clipped, too
            extra = b""
            if colour == 3:
                palette = RNG.integers(0, 256, (1 << depth, 3)).astype(np.uint8)
                extra = chunk(b"PLTE", palette.tobytes())
            for interlaced in (False, True):
                suffix = "_interlaced" if interlaced else ""
                data = png(width, height, depth, colour, samples, extra, interlaced)
                write_image(f"png_{name}_{depth}{suffix}.png", data)
    samples = RNG.integers(0, 8, (height, width, 1))
    palette = chunk(b"PLTE", RNG.integers(0, 256, (6, 3)).astype(np.uint8).tobytes())
    write_image("png_palette_short_trns.png", png(width, height, 8, 3, samples, palette + chunk(b"tRNS", b"\0\x80")))
    grey = RNG.integers(0, 256, (height, width, 1))
    write_image("png_grey_trns.png", png(width, height, 8, 0, grey, chunk(b"tRNS", struct.pack(">H", int(grey[0, 0, 0])))))
    rgb = RNG.integers(0, 256, (height, width, 3))
    key = chunk(b"tRNS", struct.pack(">HHH", *map(int, rgb[0, 0])))
    write_image("png_rgb_trns.png", png(width, height, 8, 2, rgb, key + chunk(b"gAMA", struct.pack(">I", 100000))))


def make_transparent():
    """Alpha where PIL gives it: a palette's, and one transparent colour, in files of every depth."""
    width, height = 21, 13
    for depth in (1, 2, 4, 8):
        samples = RNG.integers(0, 1 << depth, (height, width, 1))
        palette = chunk(b"PLTE", RNG.integers(0, 256, (1 << depth, 3)).astype(np.uint8).tobytes())
        alphas = RNG.integers(0, 256, max(1, (1 << depth) - 1)).astype(np.uint8).tobytes()
        write_image(f"trns_palette_{depth}.png", png(width, height, depth, 3, samples, palette + chunk(b"tRNS", alphas), True))
    for depth in (1, 2, 4, 16):
        samples = RNG.integers(0, min(1 << depth, 300), (height, width, 1))
        key = 0 if depth in (2, 4) else int(samples[0, 0, 0])
        write_image(f"trns_grey_{depth}.png", png(width, height, depth, 0, samples, chunk(b"tRNS", struct.pack(">H", key))))
    rgb = RNG.integers(0, 256, (height, width, 3)) * 256 + 80
    rgb[3, 4] = [80 * 256, 81 * 256, 82 * 256]
    key = chunk(b"tRNS", struct.pack(">HHH", 0x1050, 0x2051, 0x3052))
    write_image("trns_rgb_16.png", png(width, height, 16, 2, rgb, key))


def jpeg(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def make_jpeg():
    rgb = Image.fromarray(picture(45, 35))
    for name, options in {
        "420": dict(quality=80, subsampling=2),
        "422": dict(quality=85, subsampling=1),
        "444": dict(quality=95, subsampling=0),
        "progressive": dict(quality=75, progressive=True),
        "low": dict(quality=5),
        "restart": dict(quality=70, restart_marker_blocks=2),
        "rgb": dict(quality=90, keep_rgb=True),
    }.items():
        write_image(f"jpeg_{name}.jpg", jpeg(rgb, **options))
    write_image("jpeg_grey.jpg", jpeg(rgb.convert("L"), quality=80))
    exif = Image.Exif()
    exif[0x0112] = 6
    write_image("jpeg_rotated.jpg", jpeg(rgb, quality=80, exif=exif))
    cmyk = Image.fromarray(picture(33, 17, 4), "CMYK")
    write_image("jpeg_cmyk.jpg", jpeg(cmyk, quality=85))
    # The same components marked as YCCK in the Adobe segment, and as CMYK without one.
    data = jpeg(cmyk, quality=85, subsampling=0)
    at = data.index(b"Adobe")
    write_image("jpeg_ycck.jpg", data[: at + 11] + b"\x02" + data[at + 12 :])
    write_image("jpeg_cmyk_plain.jpg", data[: at - 4] + data[at + 12 :])


def make_resized():
    source = Image.fromarray(picture(61, 43))
    source.save(OUT / "source.png", optimize=True)
    write_rgb("source", source)
    for name, pil in FILTERS.items():
        for size in ((20, 15), (61, 17), (30, 43), (123, 90), (7, 5), (1, 1), (60, 44), (200, 3), (50, 21), (50, 20)):
            write_rgb(f"resize_{name}_{size[0]}x{size[1]}", source.resize(size, pil))
        for left, top, width, height in ((0, 0, 31, 20), (13, 9, 48, 34), (30, 11, 5, 32), (7, 3, 1, 1)):
            cropped = functional.resized_crop(source, top, left, height, width, [24, 24], MODES[name])
            write_rgb(f"crop_{name}_{left}_{top}_{width}x{height}", cropped)
        for size, crop in ((24, 21), (32, 32), (43, 40), (20, 33), (11, 16), (90, 64), (15, 22)):
            for turned in (False, True):
                image = source.transpose(Image.Transpose.TRANSPOSE) if turned else source
                image = functional.center_crop(functional.resize(image, [size], MODES[name]), [crop, crop])
                write_rgb(f"eval_{name}_{size}_{crop}{'_turned' if turned else ''}", image)


def make_resized_channels():
    """The same of grey images and of RGBA, whose colours Pillow weights by alpha: some opaque, some not, some clear."""
    pixels = picture(61, 43, 4)
    pixels[:20, 40:, 3] = 255
    pixels[30:, :15, 3] = 0
    rgba = Image.fromarray(pixels, "RGBA")
    rgba.save(OUT / "source_alpha.png", optimize=True)
    with Image.open(OUT / "source.png") as image:
        grey = image.convert("L")
    for mode in ("L", "RGB", "RGBA"):
        write_as(mode, "source_alpha", rgba)
        write_as(mode, "source", Image.open(OUT / "source.png"))
    for mode, source in (("L", grey), ("RGBA", rgba)):
        for name, pil in FILTERS.items():
            for size in ((20, 15), (61, 17), (30, 43), (123, 90), (50, 20), (61, 43)):
                write_as(mode, f"resize_{name}_{size[0]}x{size[1]}", source.resize(size, pil))
            cropped = functional.resized_crop(source, 9, 13, 34, 48, [24, 24], MODES[name])
            write_as(mode, f"crop_{name}_13_9_48x34", cropped)
            for size, crop in ((24, 21), (20, 33), (90, 64)):
                image = functional.center_crop(functional.resize(source, [size], MODES[name]), [crop, crop])
                write_as(mode, f"eval_{name}_{size}_{crop}", image)


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    make_png()
    make_jpeg()
    make_resized()
    make_transparent()
    make_resized_channels()
    print(sum(f.stat().st_size for f in OUT.iterdir()), "bytes")
