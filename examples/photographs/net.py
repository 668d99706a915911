"""A network as it came from elsewhere: EfficientNet-lite0, by a function that takes no arguments."""

from efficientnet_lite_pytorch import EfficientNet


def lite0():
    return EfficientNet.from_name("efficientnet-lite0")
