"""Images of every kind become the grey that a viewer shows, each by nothing but its bytes, and what cannot be meant is left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers import odd_images
from limbeck.inputs import images


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_an_image_is_turned_as_its_exif_says(orientation: int, kind: str) -> None:
    """The dark corner is at the top left, wherever the camera put it."""
    grey = images.grey(odd_images.turned(kind, orientation), 8, 8)
    assert grey[0, 0] < 64
    assert min(grey[0, 7], grey[7, 0], grey[7, 7]) > 192


@pytest.mark.parametrize("exif", [b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0", b"\xff" * 40])
def test_broken_exif_turns_nothing(exif: bytes) -> None:
    plain, broken = odd_images.saved("JPEG", "L"), odd_images.saved("JPEG", "L", exif=exif)
    np.testing.assert_array_equal(images.grey(broken, 8, 8), images.grey(plain, 8, 8))


def test_exif_that_no_parser_can_read_turns_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    def fail(image: object) -> None:
        raise SyntaxError

    expected = images.grey(odd_images.saved("PNG"), 8, 8)
    monkeypatch.setattr(Image.Image, "getexif", fail)
    np.testing.assert_array_equal(images.grey(odd_images.saved("PNG"), 8, 8), expected)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
def test_what_is_transparent_is_white_whatever_is_stored_beneath_it(mode: str) -> None:
    """Ink is black on paper, as in a viewer; without alpha the whole image would be black."""
    grey = images.grey(odd_images.ink(mode), 8, 8)
    assert (grey[:, :4] == 0).all()
    assert (grey[:, 4:] == 255).all()


@pytest.mark.parametrize("kind", ["PNG", "PPM", "TIFF"])
def test_an_image_of_16_bits_is_neither_white_nor_black(kind: str) -> None:
    assert (images.grey(odd_images.of_16_bits(kind), 8, 8) == 0x43).all()


@pytest.mark.parametrize("data", [odd_images.of_floats(), odd_images.of_32_bits()])
def test_numbers_of_32_bits_have_no_scale_and_the_message_says_what_to_do(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"pixels of 32 bits .* save them with 8 or 16 bits"):
        images.grey(data, 8, 8)


def test_a_palette_is_what_its_colours_are() -> None:
    palette = odd_images.saved("PNG", "P")
    direct = odd_images.saved("PNG", "RGB")
    assert np.abs(images.grey(palette, 13, 10).astype(int) - images.grey(direct, 13, 10)).mean() < 40


@pytest.mark.parametrize(
    ("data", "changes"),
    [
        (odd_images.saved("PNG", "L"), ()),
        (odd_images.saved("PNG", "1"), ()),
        (odd_images.saved("PNG", "RGB"), (images.COLOUR,)),
        (odd_images.saved("PNG", "P"), (images.COLOUR,)),
        (odd_images.ink("LA"), (images.TRANSPARENT,)),
        (odd_images.turned("JPEG", 6), (images.TURNED,)),
        (odd_images.of_16_bits("PNG"), (images.DEEP,)),
        (odd_images.animated(), (images.FRAMES,)),
    ],
)
def test_what_grey_loses_is_said(data: bytes, changes: tuple[str, ...]) -> None:
    assert images.changes(data) == changes


def test_files_of_other_kinds_are_counted_by_their_suffix(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.png", "in/b.DCM", "in/c.dcm", "d.txt", "e", ".f.dcm"):
        (tmp_path / name).write_bytes(b"")
    assert images.others(tmp_path) == {".dcm": 2, ".txt": 1, "without a suffix": 1}
    assert [str(file.relative_to(tmp_path)) for file in images.files(tmp_path)] == ["a.png"]
    assert images.contains(tmp_path)
    assert not images.contains(tmp_path / "in")
