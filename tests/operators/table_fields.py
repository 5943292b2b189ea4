"""Operators with complex fields: MRI, scattering, and measurements without phases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

from operator_cases import Size, Table, Variant, binary, complex_normal
from toys import normal

import plugip.operators as ops
from plugip.operator import Operator
from plugip.operators.phase import OBJECTS

SQUARE = ((9, 9), (8, 8))
WIDE = ((9, 25), (16, 16), (15, 12))  # room for lines in the middle of k-space


def domains(make: Callable[[int, int, str], Operator]) -> dict[str, Variant]:
    """Real, two-channel and complex images; ``make`` takes the domain as third argument."""
    made = {d: Variant(lambda h, w, b, d=d: make(h, w, d)) for d in ("real", "complex")}
    both = Variant(lambda h, w, b: make(h, w, "channels"), channels=2)
    return made | {"channels": both}


def objects(make: Callable[[int, int, str], Operator]) -> dict[str, Variant]:
    """All that an image can stand for; ``make`` takes the object as third argument."""
    made = {o: Variant(lambda h, w, b, o=o: make(h, w, o)) for o in OBJECTS}
    return made | {"channels": replace(made["channels"], channels=2)}


def mri(make: Callable[[int, int, str], Operator], sizes: tuple[Size, ...]) -> dict[str, Variant]:
    """Two real channels, or one complex one."""
    one = Variant(lambda h, w, b: make(h, w, "complex"), sizes=sizes, channels=1)
    return {
        "channels": Variant(lambda h, w, b: make(h, w, "channels"), sizes=sizes, channels=2),
        "complex": one,
    }


def scan(h: int, w: int, side: int) -> list[Size]:
    """Corners of windows that overlap and cover an image."""
    rows, columns = (sorted({*range(0, n - side + 1, 2), n - side}) for n in (h, w))
    return list(product(rows, columns))


def named(**groups: dict[str, Variant]) -> dict[str, Variant]:
    """Joins groups of variants under the names of the groups."""
    return {f"{g} {o}".strip(): v for g, group in groups.items() for o, v in group.items()}


def propagation(h: int, w: int, d: str) -> ops.Propagation:
    evanescent = {"real": "decay", "channels": "drop", "complex": "keep"}[d]
    return ops.Propagation(3.0, 4.0, evanescent=evanescent, domain=d)


MRI: Table = {
    "SingleCoilMRI": named(
        random=mri(lambda h, w, d: ops.SingleCoilMRI(ops.RandomLines(2, 0.1), d), WIDE),
        equispaced=mri(lambda h, w, d: ops.SingleCoilMRI(ops.EquispacedLines(2, 0.1), d), WIDE),
        exact=mri(lambda h, w, d: ops.SingleCoilMRI(ops.ExactLines(2, 0.1), d), WIDE),
        points=mri(lambda h, w, d: ops.SingleCoilMRI(ops.GaussianPoints(2, 0.2), d), WIDE),
        given=mri(lambda h, w, d: ops.SingleCoilMRI(binary(1, 1, 1, w), d), WIDE),
    ),
    "MultiCoilMRI": named(
        drawn=mri(
            lambda h, w, d: ops.MultiCoilMRI(
                ops.birdcage_maps(3, (h, w)), ops.ExactLines(2, 0.1), d
            ),
            WIDE,
        ),
        given=mri(
            lambda h, w, d: ops.MultiCoilMRI(complex_normal(1, 2, h, w), binary(1, 1, h, w), d),
            WIDE,
        ),
    ),
}

DENSE: Table = {
    "DenseField": named(
        drawn=domains(lambda h, w, d: ops.DenseField(ops.GaussianProjections(0.5), d)),
        given=domains(lambda h, w, d: ops.DenseField(complex_normal(7, h * w), d, (h, w))),
    ),
    "LinearInverseScattering": named(
        wide=domains(
            lambda h, w, d: ops.LinearInverseScattering(complex_normal(7, h * w), d, (h, w))
        ),
        tall=domains(
            lambda h, w, d: ops.LinearInverseScattering(complex_normal(100, h * w), d, (h, w))
        ),
    ),
    "GaussianPhaseRetrieval": named(
        drawn=objects(lambda h, w, o: ops.GaussianPhaseRetrieval(ops.GaussianProjections(2), o)),
        real={
            "": Variant(
                lambda h, w, b: ops.GaussianPhaseRetrieval(
                    ops.GaussianProjections(2, False), "unit", "amplitude"
                )
            )
        },
    ),
}

FAR: Table = {
    "PaddedFourier": named(
        plain=domains(lambda h, w, d: ops.PaddedFourier(domain=d)),
        pad={"": Variant(lambda h, w, b: ops.PaddedFourier(pad=3))},
        masked=domains(
            lambda h, w, d: ops.PaddedFourier(
                oversample_side=2.0,
                support=binary(1, 1, h, w),
                detector=binary(1, 1, 2 * h, 2 * w),
                domain=d,
            )
        ),
        volume={
            "": Variant(lambda h, w, b: ops.PaddedFourier(axes=3), sizes=SQUARE, between=(3,))
        },
    ),
    "FourierMagnitude": {
        "dps": Variant(lambda h, w, b: ops.FourierMagnitude()),
        "daps": Variant(lambda h, w, b: ops.FourierMagnitude(range_in="unit", pad=2)),
        "honest": Variant(
            lambda h, w, b: ops.FourierMagnitude(
                output="intensity", oversample_side=2.0, support=binary(1, 1, h, w)
            )
        ),
    },
    "Phaseless": {
        "real": Variant(lambda h, w, b: ops.Phaseless(ops.Blur(normal(3, 3)))),
        "amplitude": Variant(
            lambda h, w, b: ops.Phaseless(ops.PaddedFourier(), "amplitude", "unit")
        ),
        "phase": Variant(
            lambda h, w, b: ops.Phaseless(
                ops.PaddedFourier(domain="complex"), range_in="phase", phase_scale=2.0
            )
        ),
    },
    "CodedFourier": named(
        drawn=domains(lambda h, w, d: ops.CodedFourier(ops.OctanaryCodes(3), d)),
        given=domains(lambda h, w, d: ops.CodedFourier(complex_normal(1, 2, h, w), d)),
    ),
    "CodedDiffraction": named(
        octanary=objects(lambda h, w, o: ops.CodedDiffraction(ops.OctanaryCodes(3), o)),
        uniform={
            "": Variant(
                lambda h, w, b: ops.CodedDiffraction(
                    ops.UniformPhaseCodes(2), "phase", "amplitude", 2.0
                )
            )
        },
    ),
    "FarFieldCDI": named(
        open=objects(lambda h, w, o: ops.FarFieldCDI(o, output="amplitude")),
        stop={
            "": Variant(
                lambda h, w, b: ops.FarFieldCDI("unit", 2.5, binary(1, 1, h, w), beam_stop=2.0)
            )
        },
        volume={
            "": Variant(
                lambda h, w, b: ops.FarFieldCDI("unit", beam_stop=1.0, axes=3),
                sizes=SQUARE,
                between=(3,),
            )
        },
    ),
    "FourierHolography": {
        "unit": Variant(lambda h, w, b: ops.FourierHolography(complex_normal(h, 4))),
        "real": Variant(lambda h, w, b: ops.FourierHolography(normal(h, 3), "real")),
    },
}

NEAR: Table = {
    "Propagation": named(
        spectrum=domains(propagation),
        fresnel=domains(lambda h, w, d: ops.Propagation(0.5, -6.0, 0.7, "fresnel", domain=d)),
    ),
    "NearFieldHolography": named(
        spectrum=objects(lambda h, w, o: ops.NearFieldHolography(object=o)),
        fresnel={
            "": Variant(
                lambda h, w, b: ops.NearFieldHolography(
                    object="unit", model="fresnel", output="amplitude"
                )
            )
        },
    ),
    "ProbeWindows": domains(
        lambda h, w, d: ops.ProbeWindows(complex_normal(4, 5), scan(h, w, 5), (h, w), d)
    ),
    "PupilWindows": domains(
        lambda h, w, d: ops.PupilWindows(complex_normal(5, 3), [(0, 0), (1, -1)], (h, w), d)
    ),
    "Ptychography": objects(
        lambda h, w, o: ops.Ptychography(ops.disk_pupil(4, 2.0), scan(h, w, 4), (h, w), o)
    ),
    "FourierPtychography": objects(
        lambda h, w, o: ops.FourierPtychography(ops.led_grid(3, 1), 1.5, 4, (h, w), o, "amplitude")
    ),
    "BlindFourierPtychography": named(
        phase=objects(
            lambda h, w, o: ops.BlindFourierPtychography(ops.led_grid(3, 1), 1.5, 4, (h, w), o)
        ),
        disk={
            "": Variant(
                lambda h, w, b: ops.BlindFourierPtychography(
                    ops.led_grid(3, 1),
                    1.5,
                    4,
                    (h, w),
                    constraint="unit_disk",
                    truth=ops.PupilAberrations(),
                )
            )
        },
    ),
}

FIELDS: Table = MRI | DENSE | FAR | NEAR
