"""Forward operators: what is measured of an image, y = A(x), in one file per family."""

from plugip.composition import Decoder, LatentOperator, stack
from plugip.folding import on_frames, per_channel
from plugip.operators.average_pool import AveragePool
from plugip.operators.bkse import BKSE, LatentSampler, MissingWeightsError, legacy_daps_latent
from plugip.operators.blind_blur import BlindBlur, align_shift, find_shift, move
from plugip.operators.blind_camera import BlindExposure, BlindShift, Exposure, Shift
from plugip.operators.blind_pupil import BlindFourierPtychography, PupilAberrations
from plugip.operators.blur import Blur, CircularBlur, DefocusBlur, MotionBlur
from plugip.operators.blur_downsample import BicubicKernel, BlurDownsample, CircularBlurDownsample
from plugip.operators.brush import BrushMask
from plugip.operators.camera_blur import CameraResponseBlur, SaturatedBlur
from plugip.operators.ct import ParallelBeamCT
from plugip.operators.decimate import Decimate
from plugip.operators.denoise import Denoise
from plugip.operators.dense_field import (
    DenseField,
    GaussianPhaseRetrieval,
    GaussianProjections,
    LinearInverseScattering,
)
from plugip.operators.diffraction import (
    CodedDiffraction,
    CodedFourier,
    CodeSampler,
    FarFieldCDI,
    FourierHolography,
    OctanaryCodes,
    UniformPhaseCodes,
)
from plugip.operators.downsample import BicubicDownsample
from plugip.operators.frame_average import FrameAverage, FrameAverageBlur, PathShifts, ShiftSampler
from plugip.operators.grayscale import Grayscale
from plugip.operators.hadamard import WalshHadamard, walsh_hadamard
from plugip.operators.homography import (
    CameraRotations,
    HomographyBlur,
    HomographySampler,
    ProjectiveBlur,
)
from plugip.operators.inpaint import Inpaint
from plugip.operators.jpeg import JPEG
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
from plugip.operators.masks import (
    BernoulliMask,
    BoxMask,
    ExtremeMask,
    FileMask,
    MaskSampler,
    RandomMask,
    legacy_dps_mask,
)
from plugip.operators.matrix_sensing import BlockSensing, DenseSensing
from plugip.operators.mri import MultiCoilMRI, SingleCoilMRI, birdcage_maps
from plugip.operators.mri_masks import (
    EquispacedLines,
    ExactLines,
    GaussianPoints,
    RandomLines,
    legacy_mri_mask,
)
from plugip.operators.near_field import NearFieldHolography, Propagation
from plugip.operators.packed_inpaint import PackedInpaint
from plugip.operators.phase import FourierMagnitude, PaddedFourier, Phaseless, align
from plugip.operators.pointwise import Clip, Quantize
from plugip.operators.ptychography import (
    FourierPtychography,
    ProbeWindows,
    Ptychography,
    PupilWindows,
    disk_pupil,
    led_grid,
    scan_grid,
)
from plugip.operators.random_box import RandomBoxMask
from plugip.operators.sensing_samplers import (
    GaussianMatrix,
    MatrixSampler,
    OrthonormalRows,
    RandomRows,
    RandomSigns,
    RowSampler,
    SignSampler,
)
from plugip.operators.separable_blur import AnisotropicGaussianBlur, GaussianBlur, UniformBlur
from plugip.operators.turbulence import BlindTurbulence, TiltSampler
from plugip.operators.varying_blur import ConvolutionProduct, ProductConvolution
from plugip.operators.video import TemporalBlur
from plugip.operators.warp import Warp, flow_validity

__all__ = [
    "BKSE",
    "JPEG",
    "AnisotropicGaussianBlur",
    "AveragePool",
    "BernoulliMask",
    "BicubicDownsample",
    "BicubicKernel",
    "BlindBlur",
    "BlindExposure",
    "BlindFourierPtychography",
    "BlindShift",
    "BlindTurbulence",
    "BlockSensing",
    "Blur",
    "BlurDownsample",
    "BoxMask",
    "BrushMask",
    "CameraResponseBlur",
    "CameraRotations",
    "CircularBlur",
    "CircularBlurDownsample",
    "Clip",
    "CodeSampler",
    "CodedDiffraction",
    "CodedFourier",
    "ConvolutionProduct",
    "Decimate",
    "Decoder",
    "DefocusBlur",
    "DefocusKernel",
    "Denoise",
    "DenseField",
    "DenseSensing",
    "EquispacedLines",
    "ExactLines",
    "Exposure",
    "ExtremeMask",
    "FarFieldCDI",
    "FileKernel",
    "FileMask",
    "FixedKernel",
    "FourierHolography",
    "FourierMagnitude",
    "FourierPtychography",
    "FrameAverage",
    "FrameAverageBlur",
    "GaussianBlur",
    "GaussianKernel",
    "GaussianMatrix",
    "GaussianPhaseRetrieval",
    "GaussianPoints",
    "GaussianProjections",
    "Grayscale",
    "HomographyBlur",
    "HomographySampler",
    "Inpaint",
    "KernelSampler",
    "LatentOperator",
    "LatentSampler",
    "LinearInverseScattering",
    "MaskSampler",
    "MatrixSampler",
    "MissingWeightsError",
    "MotionBlur",
    "MotionKernel",
    "MultiCoilMRI",
    "NearFieldHolography",
    "OctanaryCodes",
    "OrthonormalRows",
    "PackedInpaint",
    "PaddedFourier",
    "ParallelBeamCT",
    "PathShifts",
    "Phaseless",
    "ProbeWindows",
    "ProductConvolution",
    "ProjectiveBlur",
    "Propagation",
    "Ptychography",
    "PupilAberrations",
    "PupilWindows",
    "Quantize",
    "RandomBoxMask",
    "RandomLines",
    "RandomMask",
    "RandomRows",
    "RandomSigns",
    "RowSampler",
    "SaturatedBlur",
    "Shift",
    "ShiftSampler",
    "SignSampler",
    "SingleCoilMRI",
    "TemporalBlur",
    "TiltSampler",
    "UniformBlur",
    "UniformKernel",
    "UniformPhaseCodes",
    "WalshHadamard",
    "Warp",
    "align",
    "align_shift",
    "birdcage_maps",
    "disk_pupil",
    "find_shift",
    "flow_validity",
    "led_grid",
    "legacy_daps_latent",
    "legacy_dps_mask",
    "legacy_motion_kernel",
    "legacy_mri_mask",
    "move",
    "on_frames",
    "per_channel",
    "rasterise",
    "scan_grid",
    "stack",
    "trajectory",
    "walsh_hadamard",
]
