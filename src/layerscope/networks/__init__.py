from layerscope.networks.check import check_deterministic, check_network
from layerscope.networks.registry import NETWORKS, build_network, first_output

__all__ = ["NETWORKS", "build_network", "check_deterministic", "check_network", "first_output"]
