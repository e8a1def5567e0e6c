"""`handhold doctor`: what is installed, what is missing, what this machine can do."""

from __future__ import annotations

from importlib import metadata, util

EXTRAS = {
    "lightning": "train",
    "webdataset": "train",
    "matplotlib": "train",
    "huggingface_hub": "hub",
    "onnx": "export",
    "onnxscript": "export",
    "onnxruntime": "export",
    "openvino": "fast",
    "diffusers": "diffusion",
}
NEEDED = {
    "numpy": "numpy",
    "scipy": "scipy",
    "torch": "torch",
    "safetensors": "safetensors",
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "trimesh": "trimesh",
    "embreex": "embreex",
    "roma": "roma",
    "igl": "libigl",
    "tyro": "tyro",
    "rich": "rich",
}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown version"


def doctor() -> int:
    """Print versions, missing parts with the command that adds them, devices and hand models.

    Exit code 1 when something that handhold cannot work without is missing.
    """
    import os
    import platform
    from pathlib import Path

    import handhold

    python = f"Python {platform.python_version()} on {platform.platform()}"
    print(f"handhold {handhold.__version__}, {python}")
    missing = []
    for module, package in NEEDED.items():
        present = util.find_spec(module) is not None
        print(f"  {package:<24}{_version(package) if present else 'MISSING'}")
        if not present:
            missing.append(package)
    for module, extra in EXTRAS.items():
        present = util.find_spec(module) is not None
        advice = f"not installed; pip install 'handhold[{extra}]'"
        print(f"  {module:<24}{_version(module) if present else advice}")
    if missing:
        print(f"missing: {', '.join(missing)}; install handhold again with pip")
        return 1

    import torch

    from handhold.hand.files import MANO_VARIABLE
    from handhold.models.loading import shipped_weights
    from handhold.models.registry import MODELS

    devices = ["cpu"]
    if torch.cuda.is_available():
        devices += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    print(f"devices: {', '.join(devices)}; {os.cpu_count()} processor cores")
    folder = os.environ.get(MANO_VARIABLE)
    hand = f"MANO from {Path(folder)}" if folder else f"the free hand (MANO: set {MANO_VARIABLE})"
    print(f"hand model: {hand}")
    weights = [name for name in MODELS if shipped_weights(name) is not None]
    print(f"weights in the package: {', '.join(weights) or 'none'}")
    return 0


COMMANDS = doctor
