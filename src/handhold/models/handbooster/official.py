"""The authors' checkpoint of HandBooster's denoiser: its keys, and which of its copies is read.

The trainer saves {step, model, opt, ema, scaler, version}: `model` is the live network with the
schedule's buffers beside it, `ema` holds the average (`ema_model.model.`), with which the authors
sample, the live copy (`online_model.`) and two counters. The layout of `ema` is that of the
averaging package and was not seen on a real file; a file with `model` alone is read as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from handhold.models.handbooster.model import HandBoosterConfig, HandBoosterUNet
from handhold.models.weights import fit, read_official, rename

AVERAGED = "ema_model."
WRAPPERS = ("ema", "model", "state_dict")
# The constants of the noise schedule, which stand beside the weights.
SCHEDULE = frozenset(
    {
        "betas",
        "alphas_cumprod",
        "alphas_cumprod_prev",
        "sqrt_alphas_cumprod",
        "sqrt_one_minus_alphas_cumprod",
        "log_one_minus_alphas_cumprod",
        "sqrt_recip_alphas_cumprod",
        "sqrt_recipm1_alphas_cumprod",
        "posterior_variance",
        "posterior_log_variance_clipped",
        "posterior_mean_coef1",
        "posterior_mean_coef2",
        "loss_weight",
    }
)
_LEAF = r"(weight|bias)"


def _block(theirs: str, ours: str, leaf: str) -> tuple[tuple[str, str], ...]:
    """Rules of a residual block; `leaf` is how the replacement names the last group."""
    return (
        (rf"{theirs}\.mlp\.1\.{_LEAF}", f"{ours}.modulation.{leaf}"),
        (rf"{theirs}\.block1\.proj\.{_LEAF}", f"{ours}.conv1.{leaf}"),
        (rf"{theirs}\.block1\.norm\.{_LEAF}", f"{ours}.norm1.{leaf}"),
        (rf"{theirs}\.block2\.proj\.{_LEAF}", f"{ours}.conv2.{leaf}"),
        (rf"{theirs}\.block2\.norm\.{_LEAF}", f"{ours}.norm2.{leaf}"),
        (rf"{theirs}\.res_conv\.{_LEAF}", f"{ours}.shortcut.{leaf}"),
    )


def _level(theirs: str, ours: str) -> tuple[tuple[str, str], ...]:
    """Rules of the levels of one way, down or up."""
    each, here = rf"{theirs}\.(\d+)", rf"{ours}.\1"
    return (
        *_block(rf"{each}\.0", f"{here}.block1", r"\2"),
        *_block(rf"{each}\.1", f"{here}.block2", r"\2"),
        (rf"{each}\.2\.fn\.fn\.to_qkv\.weight", f"{here}.attention.qkv.weight"),
        (rf"{each}\.2\.fn\.fn\.to_out\.0\.{_LEAF}", rf"{here}.attention.out.\2"),
        (rf"{each}\.2\.fn\.fn\.to_out\.1\.g", f"{here}.attention.out_norm.gain"),
        (rf"{each}\.2\.fn\.norm\.g", f"{here}.attention.norm.gain"),
        (rf"{each}\.3(?:\.1)?\.{_LEAF}", rf"{here}.resample.\2"),
    )


# (pattern of the original key, our key)
RULES: tuple[tuple[str, str], ...] = (
    (r"init_conv\.(.*)", r"stem.\1"),
    (r"time_mlp\.1\.(.*)", r"time_in.\1"),
    (r"time_mlp\.3\.(.*)", r"time_out.\1"),
    (r"classes_emb\.0\.(.*)", r"orientation.\1"),
    (r"null_classes_emb", r"no_orientation"),
    (r"classes_mlp\.0\.(.*)", r"orientation_in.\1"),
    (r"classes_mlp\.2\.(.*)", r"orientation_out.\1"),
    *_level("downs", "down"),
    *_level("ups", "up"),
    *_block("mid_block1", "middle1", r"\1"),
    *_block("mid_block2", "middle2", r"\1"),
    (r"mid_attn\.fn\.fn\.to_qkv\.weight", "middle_attention.qkv.weight"),
    (rf"mid_attn\.fn\.fn\.to_out\.{_LEAF}", r"middle_attention.out.\1"),
    (r"mid_attn\.fn\.norm\.g", "middle_attention.norm.gain"),
    *_block("final_res_block", "last_block", r"\1"),
    (r"final_conv\.(.*)", r"out.\1"),
)


def convert(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our keys for theirs; the averaged copy where there is one.

    Raises WeightsError that names keys no rule knows.
    """
    averaged = {k: v for k, v in entries.items() if k.startswith(AVERAGED)}
    plain: dict[str, Tensor] = {}
    for key, value in (averaged or entries).items():
        name = key.removeprefix(AVERAGED).removeprefix("module.").removeprefix("model.")
        if name not in SCHEDULE:
            plain[name] = value
    return rename(plain, RULES)


def load_official(path: str | Path) -> HandBoosterUNet:
    """The denoiser of the authors' file, in eval mode.

    Raises MissingFileError, WeightsError (unknown keys, gaps, wrong shapes).
    """
    file = read_official(path, WRAPPERS)
    network = HandBoosterUNet(HandBoosterConfig())
    fit(network, convert(file.entries), file.path.name)
    return network.eval()
