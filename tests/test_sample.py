"""genobj sample: pictures, folders, files; the same samples whatever they are written to and by how many processes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from genobj.cli.main import run
from genobj.images import to_uint8
from genobj.pictures import picture, trajectories
from genobj.sharing.pretrained import from_pretrained
from tests.sharing import make_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs_of_sample")
    make_run(place / "digits")
    make_run(place / "moons", data="moons")
    return place


@pytest.fixture(autouse=True)
def _there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def sample(*words: str | Path) -> None:
    assert run(["sample", *map(str, words)]) == 0


def pixels(place: Path) -> dict[str, NDArray[np.uint8]]:
    return {str(f.relative_to(place)): np.asarray(Image.open(f)) for f in sorted(place.rglob("*.png"))}


def test_a_folder_has_edms_names_and_the_pixels_of_the_file_of_adm(tmp_path: Path) -> None:
    sample("digits", "--count", "12", "--out", tmp_path / "a")
    sample("digits", "--count", "12", "--out", tmp_path / "b.npz")
    sample("digits", "--count", "12", "--raw", "--out", tmp_path / "c.npz")
    images, adm, raw = pixels(tmp_path / "a"), np.load(tmp_path / "b.npz"), np.load(tmp_path / "c.npz")
    assert list(images) == [f"{i:06d}.png" for i in range(12)]
    assert adm["arr_0"].dtype == np.uint8
    assert adm["arr_0"].shape == (12, 8, 8, 1)
    assert raw["arr_0"].dtype == np.float32
    assert raw["arr_0"].shape == (12, 1, 8, 8)
    assert np.array_equal(np.stack(list(images.values())), adm["arr_0"][..., 0])
    assert np.array_equal(to_uint8(torch.from_numpy(raw["arr_0"])).numpy()[:, 0], adm["arr_0"][..., 0])
    assert adm["arr_1"].tolist() == raw["arr_1"].tolist() == [*range(10), 0, 1]
    told = json.loads((tmp_path / "a/dataset.json").read_text())["labels"]
    assert told == [[f"{i:06d}.png", i % 10] for i in range(12)]


def test_processes_share_a_folder_and_many_images_lie_in_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["digits", "--first", "998", "--count", "5", "--label", "3"]
    sample(*words, "--out", tmp_path / "one")
    monkeypatch.setenv("WORLD_SIZE", "2")
    capsys.readouterr()
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        sample(*words, "--out", tmp_path / "two")
    assert capsys.readouterr().out.count("5 samples (1 NFE, weights ema_0.9)") == 1
    one, two = pixels(tmp_path / "one"), pixels(tmp_path / "two")
    assert list(one) == list(two) == [f"{i - i % 1000:06d}/{i:06d}.png" for i in range(998, 1003)]
    assert max(int(abs(one[name].astype(int) - two[name]).max()) for name in one) <= 1  # other batches, other last bits
    assert json.loads((tmp_path / "two/dataset.json").read_text())["labels"][4] == ["001000/001002.png", 3]
    monkeypatch.setenv("RANK", "0")
    assert run(["sample", "digits", "--out", str(tmp_path / "x.npz")]) == 2
    assert "2 processes can fill a folder only; type --out DIR" in capsys.readouterr().err


def test_sample_i_does_not_depend_on_where_one_starts(tmp_path: Path) -> None:
    sample("moons", "--count", "6", "--out", tmp_path / "a.npz")
    sample("moons", "--first", "4", "--count", "2", "--out", tmp_path / "b.npz")
    a, b = np.load(tmp_path / "a.npz"), np.load(tmp_path / "b.npz")
    assert a.files == ["arr_0"]
    np.testing.assert_allclose(a["arr_0"][4:], b["arr_0"], rtol=1e-5, atol=1e-6)


def test_guidance_is_a_flag(tmp_path: Path) -> None:
    sample("digits", "--count", "3", "--guidance", "2", "--nfe", "2", "--raw", "--out", tmp_path / "a.npz")
    sample("digits", "--count", "3", "guidance=2", "--nfe", "2", "--raw", "--out", tmp_path / "b.npz")
    sample("digits", "--count", "3", "--nfe", "2", "--raw", "--out", tmp_path / "c.npz")
    a, b, c = (np.load(tmp_path / f"{name}.npz")["arr_0"] for name in "abc")
    assert np.array_equal(a, b)
    assert not np.allclose(a, c)


def test_a_trajectory_has_a_column_per_nfe_and_a_row_per_noise(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample("digits", "--trajectory", "--nfe", "1,2", "--count", "3")
    assert "3 samples (1 NFE, 2 NFE" in capsys.readouterr().out
    with Image.open(folder / "digits/samples/trajectory_1_2.png") as image:
        assert image.height > image.width  # three rows of two
    model = from_pretrained("digits", device="cpu")
    panels = {"1 NFE": model.sample(3), "2 NFE": model.sample(3, nfe=2)}
    figure = trajectories(panels, ["0", "1", "2"])
    places = figure.get_axes()
    assert [axes.get_title() for axes in places[:2]] == list(panels)
    assert [axes.get_ylabel() for axes in places[::2]] == ["0", "1", "2"]
    shown = [axes.get_images()[0].get_array() for axes in places]
    for row in range(3):
        for column, x in enumerate(panels.values()):
            assert np.array_equal(shown[2 * row + column], picture(x[row]).numpy())


def test_points_are_drawn_as_clouds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample("moons", "--trajectory", "--nfe", "1,2")
    assert "1000 samples (1 NFE, 2 NFE" in capsys.readouterr().out
    assert (folder / "moons/samples/trajectory_1_2.png").is_file()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("digits --out x.jpeg", "type a file that ends in .png or .npz, or a folder"),
        ("digits --raw", "--raw writes floats, which no picture holds; type --out FILE.npz"),
        ("digits --raw --out pictures", "type --out FILE.npz"),
        ("digits --trajectory --out pictures", "--trajectory makes a picture"),
        ("digits --trajectory --count 101", "101 samples are too many for a picture"),
        ("digits --count 10001", "10001 samples are too many for a picture; type --out DIR"),
        ("digits --out digits/config.toml/x", "Not a directory"),
        ("digits --out x.npz --nfe 1,2", "holds samples of one --nfe"),
        ("digits --label 10", "this model has labels 0 to 9"),
        ("digits --first -1", "Invalid value for '--first'"),
        ("moons --label 0", "this model has no labels"),
        ("moons --guidance 2", "guidance=2.0 needs a model with a null label"),
        ("moons --out pictures", "these samples are points, which no PNG files hold; type --out FILE.npz"),
        ("digits --revision v1", "digits is a folder here, which has no revision 'v1'"),
        ("digits --out nowhere/x.npz", "there is no folder nowhere"),
    ],
)
def test_a_mistake_is_answered_in_a_sentence(words: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sample", *words.split()]) != 0
    error = capsys.readouterr().err
    assert says in error
    assert "Traceback" not in error
    assert not Path("pictures").exists()
