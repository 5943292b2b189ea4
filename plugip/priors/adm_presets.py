"""Published ADM checkpoints: their settings, and where their authors publish them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from plugip.priors.adm_layout import Architecture

OPENAI = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/"


@dataclass(frozen=True)
class Preset:
    """A published file; other files of the same settings load under the same preset.

    Attributes:
        file: Its name, as published.
        url: Where its authors publish it.
        architecture: Settings of its network.
        schedule: Noise schedule of its training, a name of ``plugip.priors.declaration.PATHS``.
        sha256: Digest of the published file, where one is on record.
    """

    file: str
    url: str
    architecture: Architecture
    schedule: str = "ddpm"
    sha256: str | None = None


# 93,563,910 parameters: flags in the READMEs of ILVR and P2 weighting.
SMALL = Architecture(
    image_size=256,
    num_channels=128,
    num_res_blocks=1,
    attention_resolutions=(16,),
    num_head_channels=64,
    learn_sigma=True,
    resblock_updown=True,
)
# 552,814,086 parameters, and a class embedding: flags in the README of guided-diffusion.
LARGE = Architecture(
    image_size=256,
    num_channels=256,
    num_res_blocks=2,
    attention_resolutions=(32, 16, 8),
    num_head_channels=64,
    learn_sigma=True,
    resblock_updown=True,
)
LARGE_CLASSES = replace(LARGE, num_classes=1000)
PIXELS_128 = Architecture(
    image_size=128,
    num_channels=256,
    num_res_blocks=2,
    attention_resolutions=(32, 16, 8),
    num_heads=4,
    learn_sigma=True,
    resblock_updown=True,
    num_classes=1000,
)
PIXELS_64 = Architecture(
    image_size=64,
    num_channels=192,
    num_res_blocks=3,
    attention_resolutions=(32, 16, 8),
    num_head_channels=64,
    learn_sigma=True,
    resblock_updown=True,
    num_classes=1000,
    use_new_attention_order=True,
)

PRESETS: dict[str, Preset] = {
    "ffhq256": Preset("ffhq_10m.pt", "https://github.com/jychoi118/ilvr_adm", SMALL),
    "celebahq256": Preset("celebahq_p2.pt", "https://github.com/jychoi118/P2-weighting", SMALL),
    "lsun_bedroom256": Preset("lsun_bedroom.pt", f"{OPENAI}lsun_bedroom.pt", LARGE),
    "imagenet256": Preset(
        "256x256_diffusion_uncond.pt",
        f"{OPENAI}256x256_diffusion_uncond.pt",
        LARGE,
        sha256="a37c32fffd316cd494cf3f35b339936debdc1576dad13fe57c42399a5dbc78b1",
    ),
    "imagenet256_cond": Preset(
        "256x256_diffusion.pt", f"{OPENAI}256x256_diffusion.pt", LARGE_CLASSES
    ),
    "imagenet128": Preset("128x128_diffusion.pt", f"{OPENAI}128x128_diffusion.pt", PIXELS_128),
    "imagenet64": Preset(
        "64x64_diffusion.pt", f"{OPENAI}64x64_diffusion.pt", PIXELS_64, schedule="cosine"
    ),
}
