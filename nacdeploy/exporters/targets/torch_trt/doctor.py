"""The check whether torch-tensorrt compiles here. The check imports nothing: without a driver the package raises."""

from importlib.util import find_spec


def said(gpus: tuple[str, ...]) -> tuple[bool, str]:
    """Tell whether the package and a GPU are here."""
    return compiles(find_spec("torch_tensorrt") is not None, gpus)


def compiles(is_installed: bool, gpus: tuple[str, ...]) -> tuple[bool, str]:
    """Answer from the presence of the package and of GPUs."""
    if not is_installed:
        return False, "torch_tensorrt is not installed: pip install 'nacdeploy[torch-trt]'"
    if not gpus:
        return False, "torch-tensorrt is installed and needs an NVIDIA GPU, which is not here"
    return True, f"torch-tensorrt, compiled on the GPU here: {', '.join(gpus)}"
