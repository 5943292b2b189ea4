import numpy as np
import pytest
import torch
from PIL import Image

from plugip import Rng
from plugip.operators.kernels import (
    DefocusKernel,
    FileKernel,
    FixedKernel,
    GaussianKernel,
    KernelSampler,
    MotionKernel,
    UniformKernel,
    legacy_motion_kernel,
    rasterise,
    trajectory,
)

SHAPE = (2, 3, 64, 64)


def motion_cases(tools, kind):
    cases = tools.golden("motion_kernels")["cases"]
    return [case for name, case in cases.items() if name.startswith(kind)]


def check_raster(kernel, case):
    """Figures of a golden raster; Pillow versions may differ by 2/255 of the peak."""
    flat, want = kernel.flatten(), case["kernel"]
    weights = ((29 * torch.arange(flat.numel()) + 13) % 97).double() / 97
    assert list(kernel.shape) == want["shape"]
    assert float(flat.sum()) == pytest.approx(1, abs=1e-12)
    assert float(flat.norm()) == pytest.approx(want["l2"], rel=2 / 255)
    assert float((weights * flat).sum()) == pytest.approx(want["wsum"], rel=2 / 255)
    if "centroid_rc" in case:
        rows = (kernel.sum(1) * torch.arange(len(kernel))).sum()
        columns = (kernel.sum(0) * torch.arange(len(kernel))).sum()
        assert [float(rows), float(columns)] == pytest.approx(case["centroid_rc"], abs=0.1)


def test_golden_paths_and_rasters(tools):
    cases = motion_cases(tools, "injected")
    assert len(cases) == 3
    for case in cases:
        j, diagonal = np.arange(case["n"]), 2 * case["size"] * np.sqrt(2)
        steps, headings = diagonal * (1 + 7 * j % 5) / 200, np.pi * (3 * j % 7 - 3) / 40
        path = trajectory(case["size"], steps, headings, case["rotation"])
        assert np.allclose(path[:3], case["path_first3"], rtol=0, atol=1e-7)
        assert np.allclose(path[-1], case["path_last"], rtol=0, atol=1e-7)
        check_raster(rasterise(path, case["size"]), case)


def test_golden_legacy_kernels(tools):
    cases = motion_cases(tools, "legacy")
    assert len(cases) == 5
    for case in cases:
        state = np.random.RandomState(case["seed"])
        check_raster(legacy_motion_kernel(state, case["size"], case["intensity"]), case)


def test_golden_second_draw_of_dps(tools):
    (case,) = motion_cases(tools, "dps_second")
    check_raster(legacy_motion_kernel(np.random.RandomState(0), draws=2), case)
    first = legacy_motion_kernel(np.random.RandomState(0))
    assert float(first.norm()) != pytest.approx(case["kernel"]["l2"], rel=1e-2)


def test_golden_defocus_disk(tools):
    case = tools.golden("nonlinear_and_varying")["cases"]["defocus_disk_r3_9x9"]
    tools.case(DefocusKernel(3, 9).build(), case)


@pytest.mark.parametrize(
    "kernel",
    [
        GaussianKernel(),
        GaussianKernel((1, 3), 9, 30),
        UniformKernel((3, 5)),
        DefocusKernel(),
        DefocusKernel(0.5),
        DefocusKernel(4, alias_std=0.5),
    ],
)
def test_fixed_kernels_weigh_light(kernel):
    built = kernel.build()
    assert built.dtype == torch.float64 and isinstance(kernel, FixedKernel | KernelSampler)
    assert bool((built >= 0).all()) and float(built.sum()) == pytest.approx(1, abs=1e-14)
    middle = [n // 2 for n in built.shape]
    assert built[*middle] == built.max()
    drawn = kernel.draw(Rng(0, "operator", ["a", "b"]), SHAPE)
    assert drawn.shape == (2, *built.shape) and bool((drawn == built).all())


def test_gaussian_kernel_has_its_moments():
    kernel = GaussianKernel((1.0, 3.0), 41, 0).build()
    line = torch.arange(41).double() - 20
    spread = [float((kernel.sum(d) * line**2).sum()) for d in (1, 0)]
    assert spread == pytest.approx([1.0, 9.0], rel=1e-6)
    tilted = GaussianKernel((1.0, 3.0), 41, 45).build()
    # Counter-clockwise with rows downwards: the long axis rises to the right.
    assert float((tilted * line[:, None] * line[None]).sum()) == pytest.approx(-4, rel=1e-3)
    quarter = GaussianKernel((1.0, 3.0), 41, 90).build()
    torch.testing.assert_close(quarter, kernel.mT, rtol=0, atol=1e-15)


def test_defocus_is_just_large_enough():
    for radius in (0.5, 1.0, 2.3, 3.0):
        kernel, wider = DefocusKernel(radius).build(), DefocusKernel(radius, 15).build()
        assert bool((kernel.sum(0) > 0).all())
        margin = (15 - len(kernel)) // 2
        padded = torch.nn.functional.pad(kernel, (margin,) * 4)
        torch.testing.assert_close(padded, wider, rtol=0, atol=1e-15)
    assert DefocusKernel(4, alias_std=0.5).build()[0].sum() > 0


def test_motion_kernels_belong_to_images():
    sampler = MotionKernel(31)
    both = sampler.draw(Rng(0, "operator", ["a", "b"]), SHAPE)
    again = sampler.draw(Rng(0, "operator", ["b"]), SHAPE)
    assert both.shape == (2, 31, 31) and both.dtype == torch.float64
    assert torch.equal(both[1:], again) and not torch.equal(both[0], both[1])
    assert bool((both >= 0).all())
    torch.testing.assert_close(both.sum((1, 2)), torch.ones(2, dtype=torch.float64))
    # Frozen: NumPy's and torch's streams are the same on every machine.
    path = sampler.paths(Rng(0, "operator", ["a"]))[0]
    assert path.mean(0) == pytest.approx([31, 31], abs=1e-9)


def test_straight_lines_at_intensity_zero():
    path = MotionKernel(31, 0.0).paths(Rng(0, "operator", ["a"]))[0]
    steps = np.diff(path, axis=0)
    assert np.allclose(steps[:, 0] * steps[0, 1], steps[:, 1] * steps[0, 0], atol=1e-9)


def test_file_kernels(tmp_path):
    raw = np.arange(12.0).reshape(3, 4)
    np.save(tmp_path / "k.npy", raw)
    Image.fromarray((20 * raw).astype(np.uint8)).save(tmp_path / "k.png")
    for name in ("k.npy", "k.png"):
        built = FileKernel(str(tmp_path / name)).build()
        torch.testing.assert_close(built, torch.from_numpy(raw / raw.sum()))
    np.save(tmp_path / "cube.npy", np.ones((2, 3, 3)))
    with pytest.raises(ValueError, match=r"two-dimensional real array.*shape \(2, 3, 3\)"):
        FileKernel(str(tmp_path / "cube.npy")).build()
    np.save(tmp_path / "zero.npy", np.zeros((3, 3)))
    with pytest.raises(ValueError, match="finite with a positive sum, got 0"):
        FileKernel(str(tmp_path / "zero.npy")).build()
    rounding = raw - raw.mean()  # its sum is nothing but rounding, which would blow it up
    np.save(tmp_path / "level.npy", rounding + 1e-17)
    with pytest.raises(ValueError, match="finite with a positive sum, got"):
        FileKernel(str(tmp_path / "level.npy")).build()
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"cannot read a kernel from"):
        FileKernel(str(tmp_path / "text.png")).build()
    with pytest.raises(FileNotFoundError, match=r"no kernel file 'none\.npy'"):
        FileKernel("none.npy")


def test_errors():
    with pytest.raises(ValueError, match=r"std must be a positive, finite number, got 0"):
        GaussianKernel((1, 0))
    with pytest.raises(ValueError, match=r"std must be one number or two .*got \(1, 2, 3\)"):
        GaussianKernel((1, 2, 3))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="size must be an odd"):
        GaussianKernel(size=4)
    with pytest.raises(ValueError, match="size must be one positive whole number or two"):
        UniformKernel(0)
    with pytest.raises(ValueError, match=r"radius must be a positive"):
        DefocusKernel(-1)
    with pytest.raises(ValueError, match="alias_std must be finite and not negative, got -1"):
        DefocusKernel(alias_std=-1)
    with pytest.raises(ValueError, match="size must be a whole number, at least 3, got 2"):
        MotionKernel(2)
    with pytest.raises(ValueError, match=r"intensity must lie in \[0, 1\], got 1.5"):
        MotionKernel(intensity=1.5)
    with pytest.raises(ValueError, match="draws must be a whole number, at least 1, got 0"):
        legacy_motion_kernel(np.random.RandomState(0), draws=0)
    with pytest.raises(ValueError, match="leaves nothing on a canvas of 32 x 32 pixels"):
        rasterise(np.array([[-50.0, -50.0], [-40.0, -40.0]]), 16)
